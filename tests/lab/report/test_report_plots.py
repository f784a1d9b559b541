"""The plots show the numbers that they are given."""

import numpy as np
import pytest

from ms_adam.lab.report import plots

ADAM, THEIRS, REFERENCE = "ms_adam.Adam", "mindspore.nn.Adam", "float64 reference"


@pytest.fixture
def figures(monkeypatch):
    """Keeps each figure for a look at what is drawn in it."""
    kept = []
    monkeypatch.setattr(plots, "png", lambda figure: kept.append(figure) or b"")
    return kept


def runs_and_arrays():
    runs, arrays = [], []
    groups = [(ADAM, "graph"), (ADAM, "pynative"), (THEIRS, "graph"), (REFERENCE, "graph")]
    for optimizer, mode in groups:
        for seed in (0, 1):
            reference = optimizer == REFERENCE
            runs.append(
                {
                    "optimizer": optimizer,
                    "mode": mode,
                    "seed": seed,
                    "label": REFERENCE if reference else f"{optimizer}, {mode}",
                    "rounding_bound": None if reference else 1e-4,
                }
            )
            of_run = {
                "loss": np.array([4.0, 2.0, 1.0, 1.0]) + seed + (0 if reference else 0.5),
                "test_accuracy": np.array([0.5, 0.75]) + 0.1 * seed,
            }
            if not reference:
                of_run.update(
                    error_algorithm1=np.full(4, 1e-6 * (1 + seed)),
                    error_epsilon_hat=np.full(4, 1e-2),
                )
            arrays.append(of_run)
    return runs, arrays


def line(axis, label):
    return next(line for line in axis.lines if line.get_label() == label)


def test_training_plot_shows_means_over_seeds(figures):
    plots.training_plot(*runs_and_arrays())
    loss, accuracy = figures[0].axes
    # Epoch means of seed 0: 3.5, 1.5; of seed 1: one more; the mean lies between.
    np.testing.assert_allclose(line(loss, f"{ADAM}, graph").get_ydata(), [4.0, 2.0])
    np.testing.assert_allclose(line(accuracy, REFERENCE).get_ydata(), [55, 80])
    assert len(loss.lines) == 4
    band = loss.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1.0, 4.0)  # the reference comes first


def test_error_plot_shows_both_formulas_and_the_limit(figures):
    plots.error_plot(*runs_and_arrays())
    one, hat = figures[0].axes
    np.testing.assert_allclose(line(one, f"{THEIRS}, graph").get_ydata(), 1.5e-6)
    np.testing.assert_allclose(line(hat, f"{ADAM}, graph").get_ydata(), 1e-2)
    assert any(np.allclose(shown.get_ydata(), 1e-4) for shown in one.lines)


def test_drift_plot_shows_differences_and_leaves_zero_out(figures):
    runs, arrays = runs_and_arrays()
    for of_run, reference in zip(arrays[:2], arrays[-2:]):
        of_run["loss"][1] = reference["loss"][1]
    plots.drift_plot(runs, arrays)
    drawn = np.ma.filled(line(figures[0].axes[0], f"{ADAM}, graph").get_ydata(), np.nan)
    np.testing.assert_allclose(drawn, [0.5, np.nan, 0.5, 0.5])


def test_coinciding_lines_are_nested(figures):
    plots.training_plot(*runs_and_arrays())
    widths = [line.get_linewidth() for line in figures[0].axes[0].lines]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == len(widths)


@pytest.mark.parametrize("name", sorted(plots.PLOTS))
def test_plots_are_png_and_repeatable(name):
    first, again = (plots.PLOTS[name](*runs_and_arrays()) for _ in range(2))
    assert first.startswith(b"\x89PNG") and first == again


def test_training_that_diverged_is_still_drawn():
    runs, arrays = runs_and_arrays()
    for name in ("loss", "error_algorithm1", "error_epsilon_hat"):
        arrays[0][name] = np.array([1.0, np.inf, np.nan, np.nan])
    runs[0]["rounding_bound"] = "nan"
    for draw in plots.PLOTS.values():
        assert draw(runs, arrays).startswith(b"\x89PNG")
