"""The plots of the paper's figures, drawn from an entry of ``results.json``."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ms_adam.lab.report import plots
from ms_adam.lab.report.plots import STYLE, band, legend_below, panels, whole_numbers

# Colour, line style and marker: the last two tell the optimizers apart in print.
_LOOK = {
    "Adam": (plots.BLUE, "-", "o"),
    "SGD Nesterov": (plots.VERMILION, "--", "s"),
    "AdaGrad": (plots.GREEN, "-.", "^"),
    "RMSProp": (plots.PURPLE, ":", "D"),
    "AdaDelta": (plots.ORANGE, (0, (5, 1, 1, 1, 1, 1)), "v"),
    "AdaMax": (plots.SKY, (0, (1, 1)), "P"),
}
# Of figure 4, the curves of a panel.
_PAIR = {"with bias correction": (plots.BLUE, "-", "o"), "without": (plots.VERMILION, "--", "s")}


def draw(entry: dict) -> dict[str, tuple[Figure, str]]:
    """Draws all plots of a figure.

    Returns:
        Of each by its name, the plot and its caption.
    """
    config = entry["config"]
    seeds = f"seeds {', '.join(map(str, config['seeds']))}"
    bands = f"Lines are means over {seeds}, bands reach from the least to the most."
    early, last = entry["scale"]["early"], entry["scale"]["epochs"]
    with matplotlib.rc_context(STYLE):
        if config["design"] == "grid":
            epochs = " and ".join(str(epoch) for epoch in (early, last) if epoch)
            return {
                "grid": (
                    _grid(entry),
                    f"Cost of epoch {epochs} over the step size, with bias correction and without. "
                    f"{bands} A cross marks a step size at which a seed is no better than before "
                    "training; there its cost is drawn as that before training.",
                ),
                "curves": (
                    _pair_curves(entry),
                    "Training cost over the epochs, each at its best step size by the cost at "
                    f"the end. {bands}",
                ),
            }
        tuning = f"tuning seed {', '.join(map(str, config['tuning_seeds']))}"
        return {
            "curves": (
                _curves(entry),
                f"Training cost over the epochs, at the best learning rate. {bands}",
            ),
            "sensitivity": (
                _sensitivity(entry),
                f"Cost of epoch {last} over the learning rate, on {tuning}. A ring marks "
                "the best, a cross at the upper edge a run that diverged.",
            ),
        }


def palette_png(figure: Figure, pixels: int) -> bytes:
    """Returns a plot of this width as a PNG of at most 256 colours.

    Lines in a few colours lose nothing to the eye, and the file is a third as large.
    """
    with matplotlib.rc_context(STYLE), io.BytesIO() as drawn, io.BytesIO() as small:
        figure.savefig(drawn, format="png", dpi=pixels / figure.get_figwidth())
        with Image.open(drawn) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
                small, format="png", optimize=True
            )
        return small.getvalue()


def best_runs(entry: dict, line: dict) -> list[dict]:
    """Returns the runs of a line at its best learning rate, one for each judged seed."""
    wanted = {
        "variant": line["variant"],
        "optimizer": line["optimizer"],
        "purpose": "grid" if entry["config"]["design"] == "grid" else "judged",
        "learning_rate": line["best"],
    }
    return [run for run in entry["runs"] if all(run[key] == value for key, value in wanted.items())]


def _draw_costs(axis: Axes, entry: dict, line: dict, look: tuple, label: str, epochs) -> None:
    """Draws the costs of a line's best runs after these epochs."""
    costs = np.array([[float(cost) for cost in run["costs"]] for run in best_runs(entry, line)])
    costs[:, ~np.isfinite(costs).all(axis=0)] = np.nan  # a run that had diverged leaves a gap
    x = np.arange(costs.shape[1])[epochs]
    colour, style, _ = look
    band(axis, costs[:, epochs], label, x, color=colour, linestyle=style, linewidth=1.7)


def _curves(entry: dict) -> Figure:
    """A row for each variant; where there is an early epoch, a column up to there before all."""
    variants = [variant["label"] for variant in entry["config"]["variants"]]
    early, last = entry["scale"]["early"], entry["scale"]["epochs"]
    columns = [last] if early is None else [early, last]
    size = (max(8.0, 5.0 * len(columns)), 0.6 + 3.2 * len(variants))
    figure, axes = panels(len(variants), len(columns), size)
    for variant, row in zip(variants, axes):
        for until, axis in zip(columns, row):
            epochs = slice(0 if until == early else 1, until + 1)
            for line in entry["lines"]:
                if line["variant"] == variant:
                    name = line["optimizer"]
                    _draw_costs(axis, entry, line, _LOOK[name], name, epochs)
            title = variant if until != early else f"{variant}, to epoch {early}"
            axis.set(title=title, xlabel="epoch", yscale="log")
            whole_numbers(axis)
            _plain_ticks(axis)
        row[0].set_ylabel("training cost, nats an example")
    _legend(figure)
    return figure


def _sensitivity(entry: dict) -> Figure:
    variants = [variant["label"] for variant in entry["config"]["variants"]]
    figure, (axes,) = panels(1, len(variants), (max(8.0, 5.0 * len(variants)), 3.8))
    for axis, variant in zip(axes, variants):
        axis.set(title=variant, xlabel="learning rate", xscale="log", yscale="log")
        for line in entry["lines"]:
            if line["variant"] == variant:
                _sensitivity_of(axis, line)
        _plain_ticks(axis)
    axes[0].set_ylabel(f"cost of epoch {entry['scale']['epochs']}, nats")
    _legend(figure)
    return figure


def _sensitivity_of(axis: Axes, line: dict) -> None:
    name = line["optimizer"]
    colour, style, marker = _LOOK[name]
    rates = np.array([tried["learning_rate"] for tried in line["tried"]])
    means = np.array([float(tried["mean"]) for tried in line["tried"]])
    there = np.isfinite(means)
    look = {"color": colour, "marker": marker, "markersize": 4.5}
    axis.plot(rates[there], means[there], linestyle=style, label=name, **look)
    best = there & (rates == line["best"])
    ring = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": colour}
    axis.plot(rates[best], means[best], "o", **ring)
    for rate in rates[~there]:  # it diverged and has no cost: a cross at the upper edge
        at_edge = axis.get_xaxis_transform()
        axis.plot(rate, 1, "x", color=colour, transform=at_edge, clip_on=False)


def _pair_panels(
    entry: dict, epochs: Sequence[int], height: float
) -> tuple[Figure, Iterator[tuple[Axes, int, str, tuple, str, str]]]:
    """Returns figure 4's panels: a row for each epoch and beta1, a column for each beta2.

    Returns:
        The figure, and for each curve its axis, epoch, optimizer, look, label and panel title.
    """
    pairs: dict[tuple[float, float], list[str]] = {}
    for contender in entry["config"]["optimizers"]:
        settings = contender["settings"]
        pair = pairs.setdefault((settings["beta1"], settings["beta2"]), ["", ""])
        label = contender["label"] or contender["name"]
        pair[0 if settings["bias_correction"] else 1] = label
    beta1s, beta2s = (sorted({betas[i] for betas in pairs}) for i in (0, 1))
    rows = [(epoch, beta1) for epoch in epochs for beta1 in beta1s]
    size = (3.6 * len(beta2s), height * len(rows))
    figure, axes = panels(len(rows), len(beta2s), size, sharex=True, sharey=True)
    for row in axes:
        row[0].set_ylabel("cost, nats an image")

    def curves():
        for (epoch, beta1), row in zip(rows, axes):
            for beta2, axis in zip(beta2s, row):
                for optimizer, (label, look) in zip(pairs[beta1, beta2], _PAIR.items()):
                    yield axis, epoch, optimizer, look, label, f"β1 {beta1:g}, β2 {beta2:g}"

    return figure, curves()


def _finish_pairs(figure: Figure, xlabel: str, scales: dict[str, Any]) -> Figure:
    for axis in figure.axes:
        axis.set(**scales)
        _plain_ticks(axis)
        if axis.get_subplotspec().is_last_row():
            axis.set_xlabel(xlabel)
    _legend(figure)
    return figure


def _grid(entry: dict) -> Figure:
    """The paper's figure 4: the cost at each epoch that is looked at, over the step size."""
    epochs = [epoch for epoch in (entry["scale"]["early"], entry["scale"]["epochs"]) if epoch]
    figure, curves = _pair_panels(entry, epochs, 2.5)
    for axis, epoch, optimizer, look, label, title in curves:
        runs = [run for run in entry["runs"] if run["optimizer"] == optimizer]
        _over_rates(axis, runs, epoch, look, label)
        axis.set_title(f"{title}, epoch {epoch}", fontsize=9.5)
    return _finish_pairs(figure, "step size", {"xscale": "log", "yscale": "log"})


def _over_rates(axis: Axes, runs: list[dict], epoch: int, look: tuple, label: str) -> None:
    colour, style, marker = look
    rates = np.array(sorted({run["learning_rate"] for run in runs}))

    def costs(of_epoch: int) -> np.ndarray:
        found = [
            [float(run["costs"][of_epoch]) for run in runs if run["learning_rate"] == rate]
            for rate in rates
        ]
        return np.array(found).T

    after, before = costs(epoch), costs(0)
    lost = ~(after < before).all(axis=0)
    # A cost above that before training is drawn there: a cross, for it is not a cost to be read.
    shown = np.fmin(after, before)
    band(axis, shown, label, rates, color=colour, linestyle=style, linewidth=1.7)
    for where, mark in ((~lost, marker), (lost, "x")):
        axis.plot(rates[where], shown.mean(axis=0)[where], mark, color=colour, markersize=5)


def _pair_curves(entry: dict) -> Figure:
    best = {line["optimizer"]: line for line in entry["lines"]}
    figure, curves = _pair_panels(entry, [entry["scale"]["epochs"]], 2.6)
    for axis, _, optimizer, look, label, title in curves:
        _draw_costs(axis, entry, best[optimizer], look, label, slice(1, None))
        axis.set_title(title, fontsize=9.5)
    whole_numbers(*figure.axes)
    return _finish_pairs(figure, "epoch", {"yscale": "log"})


def _plain_ticks(axis: Axes) -> None:
    """Writes costs as 0.2 and not as 2 x 10^-1, where less than two decades are shown."""
    low, high = axis.get_ylim()
    if not 0 < low < high < 100 * low:
        return
    between = (2.0, 3.0, 5.0) if high > 3 * low else tuple(np.arange(1.0, 10.0, 0.5))
    plain = ticker.FuncFormatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0,), numticks=12))
    axis.yaxis.set_minor_locator(ticker.LogLocator(subs=between, numticks=12))
    axis.yaxis.set_major_formatter(plain)
    axis.yaxis.set_minor_formatter(plain)
    axis.tick_params(axis="y", which="both", labelsize=8.5)
    axis.grid(True, axis="y", which="both")


def _legend(figure: Figure) -> None:
    handles, _ = figure.axes[0].get_legend_handles_labels()
    legend_below(
        figure, handles, ncols=min(len(handles), 5), handlelength=3, columnspacing=1.2, fontsize=9
    )
