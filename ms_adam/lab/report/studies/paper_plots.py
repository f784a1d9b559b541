"""The plots of the paper's figures, drawn from an entry of ``results.json``."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Callable

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
# Of figure 4, the curves of a panel: with bias correction and without.
_PAIR = (
    ("with bias correction", (plots.BLUE, "-", "o")),
    ("without", (plots.VERMILION, "--", "s")),
)
_BANDS = "Lines are means over the judged seeds, bands reach from the least to the most."

Curve = tuple[str, tuple, dict]  # its label, its look, and a line of the entry


def draw(entry: dict) -> dict[str, tuple[Figure, str]]:
    """Draws all plots of a figure.

    Returns:
        Of each by its name, the plot and its caption.
    """
    with matplotlib.rc_context(STYLE):
        return _of_grid(entry) if entry["config"]["design"] == "grid" else _of_tuned(entry)


def _of_grid(entry: dict) -> dict[str, tuple[Figure, str]]:
    """Draws the paper's figure 4, with rows for each epoch that is looked at; and all epochs."""
    rows, cost = _panels_of_betas(entry), "cost, nats an image"
    epochs = [epoch for epoch in (entry["scale"]["early"], entry["scale"]["epochs"]) if epoch]
    grid = [
        [(f"{title}, epoch {epoch}", curves, epoch) for title, curves in row]
        for epoch in epochs
        for row in rows
    ]
    over_epochs = [[(*panel, slice(1, None)) for panel in row] for row in rows]
    return {
        "grid": (
            _plot(entry, grid, _draw_grid, "step size", cost),
            f"Cost of epoch {' and '.join(map(str, epochs))} over the step size, with bias "
            f"correction and without. {_BANDS} A cross marks a step size at which a seed is no "
            "better than before training; there its cost is drawn as that before training.",
        ),
        "curves": (
            _plot(entry, over_epochs, _draw_costs, "epoch", cost),
            f"Cost over the epochs, each at its best step size by the cost at the end. {_BANDS}",
        ),
    }


def _of_tuned(entry: dict) -> dict[str, tuple[Figure, str]]:
    """Draws a row for each variant; where there is an early epoch, up to there before all."""
    config, early, last = entry["config"], entry["scale"]["early"], entry["scale"]["epochs"]
    variants = _curves_of_variants(entry).items()
    rows = [[(title, curves, slice(1, last + 1))] for title, curves in variants]
    if early is not None:
        for row, (title, curves) in zip(rows, variants):
            row.insert(0, (f"{title}, to epoch {early}", curves, slice(0, early + 1)))
    cost = f"{'training' if config['held_out'] is None else 'held-out'} cost, nats an example"
    words = f"Cost over the epochs, at the best learning rate. {_BANDS}"
    found = {"curves": (_plot(entry, rows, _draw_costs, "epoch", cost), words)}
    if entry["scale"]["trials"] > 1:
        tuning = f"tuning seed {', '.join(map(str, config['tuning_seeds']))}"
        cost = f"cost of epoch {last}, nats"
        found["sensitivity"] = (
            _plot(entry, [list(variants)], _draw_tried, "learning rate", cost),
            f"Cost of epoch {last} over the learning rate, on {tuning}. A ring marks the best, "
            "a cross at the upper edge a run that diverged.",
        )
    return found


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


def _curves_of_variants(entry: dict) -> dict[str, list[Curve]]:
    names = dict.fromkeys(line["optimizer"] for line in entry["lines"])
    unused = [look for name, look in _LOOK.items() if name not in names]
    free = itertools.cycle(unused or _LOOK.values())
    looks = {name: _LOOK.get(name) or next(free) for name in names}
    found: dict[str, list[Curve]] = {of["label"]: [] for of in entry["config"]["variants"]}
    for line in entry["lines"]:
        found[line["variant"]].append((line["optimizer"], looks[line["optimizer"]], line))
    return found


def _panels_of_betas(entry: dict) -> list[list[tuple[str, list[Curve]]]]:
    """Returns titles and curves in rows, one for each beta1, with a panel for each beta2."""
    lines = {line["optimizer"]: line for line in entry["lines"]}
    pairs = []
    for contender in entry["config"]["optimizers"]:
        settings, name = contender["settings"], contender["label"] or contender["name"]
        pairs.append((settings["beta1"], settings["beta2"], not settings["bias_correction"], name))
    rows: dict[float, dict[str, list[Curve]]] = {}
    for beta1, beta2, without, name in sorted(pairs):
        panel = rows.setdefault(beta1, {}).setdefault(f"β1 {beta1:g}, β2 {beta2:g}", [])
        panel.append((*_PAIR[without], lines[name]))
    return [list(row.items()) for row in rows.values()]


def _plot(
    entry: dict, rows: Sequence[Sequence[tuple]], draw: Callable[..., None], x: str, y: str
) -> Figure:
    """Draws rows of panels.

    Args:
        entry: Of ``results.json``. The panels of a grid share their axes.
        rows: Of each panel its title, its curves, and what else `draw` takes.
        draw: Takes the axis, the entry, a curve's label, look and line, and what else.
        x, y: The labels of the axes.
    """
    shared, epochs = entry["config"]["design"] == "grid", x == "epoch"
    down, across = len(rows), len(rows[0])
    size = (max(8.0, 5.0 * across), 0.6 + 3.2 * down)
    if shared:
        size = (3.6 * across, (2.6 if epochs else 2.5) * down)
    figure, axes = panels(down, across, size, sharex=shared, sharey=shared)
    for axis, (title, curves, *more) in zip(axes.flat, itertools.chain(*rows)):
        axis.set_title(title, **({"fontsize": 9.5} if shared else {}))
        for curve in curves:
            draw(axis, entry, *curve, *more)
    for axis in axes.flat:
        axis.set(yscale="log", **({} if epochs else {"xscale": "log"}))
        if epochs:
            whole_numbers(axis)
        _plain_ticks(axis)
        if axis.get_subplotspec().is_last_row() or not shared:
            axis.set_xlabel(x)
    for axis in axes[:, 0]:
        axis.set_ylabel(y)
    handles, _ = axes[0, 0].get_legend_handles_labels()
    columns = min(len(handles), 5)
    legend_below(figure, handles, ncols=columns, handlelength=3, columnspacing=1.2, fontsize=9)
    return figure


def _draw_costs(axis: Axes, entry: dict, label: str, look: tuple, line: dict, epochs) -> None:
    """Draws the costs of a line's best runs after these epochs."""
    costs = np.array([[float(cost) for cost in run["costs"]] for run in best_runs(entry, line)])
    costs[:, ~np.isfinite(costs).all(axis=0)] = np.nan  # a run that had diverged leaves a gap
    x = np.arange(costs.shape[1])[epochs]
    colour, style, _ = look
    band(axis, costs[:, epochs], label, x, color=colour, linestyle=style, linewidth=1.7)


def _draw_tried(axis: Axes, _: dict, label: str, look: tuple, line: dict) -> None:
    """Draws the cost of a line at each learning rate tried."""
    colour, style, marker = look
    rates = np.array([tried["learning_rate"] for tried in line["tried"]])
    means = np.array([float(tried["mean"]) for tried in line["tried"]])
    there = np.isfinite(means)
    look = {"color": colour, "marker": marker, "markersize": 4.5}
    axis.plot(rates[there], means[there], linestyle=style, label=label, **look)
    best = there & (rates == line["best"])
    ring = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": colour}
    axis.plot(rates[best], means[best], "o", **ring)
    for rate in rates[~there]:  # it diverged and has no cost: a cross at the upper edge
        at_edge = axis.get_xaxis_transform()
        axis.plot(rate, 1, "x", color=colour, transform=at_edge, clip_on=False)


def _draw_grid(axis: Axes, entry: dict, label: str, look: tuple, line: dict, epoch: int) -> None:
    """Draws the costs of an optimizer's runs at an epoch over their learning rates."""
    colour, style, marker = look
    by_rate: dict[float, list] = {}
    for run in entry["runs"]:
        if run["optimizer"] == line["optimizer"]:
            by_rate.setdefault(run["learning_rate"], []).append(run["costs"])
    rates = np.array(sorted(by_rate))
    costs = np.array([by_rate[rate] for rate in rates], dtype=float)  # [rate, seed, epoch]
    after, before = costs[..., epoch].T, costs[..., 0].T
    lost = ~(after < before).all(axis=0)
    # A cost above that before training is drawn there: a cross, for it is not a cost to be read.
    shown = np.fmin(after, before)
    band(axis, shown, label, rates, color=colour, linestyle=style, linewidth=1.7)
    for where, mark in ((~lost, marker), (lost, "x")):
        axis.plot(rates[where], shown.mean(axis=0)[where], mark, color=colour, markersize=5)


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
