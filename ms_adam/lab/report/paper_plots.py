"""The plots of the paper's figures, drawn from an entry of ``results.json``."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ms_adam.lab.report.plots import STYLE

# Okabe & Ito 2008, told apart with every common kind of colour blindness; markers and line styles
# tell them apart in print.
_LOOK = {
    "Adam": ("#0072B2", "-", "o"),
    "SGD Nesterov": ("#D55E00", "--", "s"),
    "AdaGrad": ("#009E73", "-.", "^"),
    "RMSProp": ("#CC79A7", ":", "D"),
    "AdaDelta": ("#E69F00", (0, (5, 1, 1, 1, 1, 1)), "v"),
    "AdaMax": ("#56B4E9", (0, (1, 1)), "P"),
}
_WITH, _WITHOUT = ("#0072B2", "-", "o"), ("#D55E00", "--", "s")


def draw(entry: dict) -> dict[str, tuple[Figure, str]]:
    """All plots of a figure.

    Returns:
        Of each by its name, the plot and its caption.
    """
    seeds = f"seeds {', '.join(map(str, entry['config']['seeds']))}"
    bands = f"Lines are means over {seeds}, bands reach from the least to the most."
    early, last = entry["scale"]["early"], entry["scale"]["epochs"]
    if entry["config"]["design"] == "grid":
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
    tuning = f"tuning seed {', '.join(map(str, entry['config']['tuning_seeds']))}"
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
    """A plot of so many pixels in width, as a PNG of at most 256 colours.

    Lines in a few colours lose nothing to the eye, and the file is a third as large.
    """
    with matplotlib.rc_context(STYLE), io.BytesIO() as drawn, io.BytesIO() as small:
        figure.savefig(drawn, format="png", dpi=pixels / figure.get_figwidth())
        with Image.open(drawn) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
                small, format="png", optimize=True
            )
        return small.getvalue()


def _runs(entry: dict, **wanted) -> list[dict]:
    return [run for run in entry["runs"] if all(run[key] == value for key, value in wanted.items())]


def _costs(runs: list[dict]) -> np.ndarray:
    """Shape (runs, epochs + 1); not a number where a run had diverged, which leaves a gap."""
    costs = np.array([[float(cost) for cost in run["costs"]] for run in runs])
    return np.where(np.isfinite(costs), costs, np.nan)


def _best_runs(entry: dict, line: dict) -> list[dict]:
    purpose = "grid" if entry["config"]["design"] == "grid" else "judged"
    return _runs(
        entry,
        variant=line["variant"],
        optimizer=line["optimizer"],
        purpose=purpose,
        learning_rate=line["best"],
    )


def _band(axis: Axes, x, costs: np.ndarray, look: tuple, label: str, **more) -> None:
    """The mean over seeds in a band from the least to the most."""
    colour, style, _ = look
    axis.plot(
        x, costs.mean(axis=0), color=colour, linestyle=style, linewidth=1.7, label=label, **more
    )
    axis.fill_between(
        x, costs.min(axis=0), costs.max(axis=0), color=colour, alpha=0.18, linewidth=0
    )


def _curves(entry: dict) -> Figure:
    """A row for each variant; where there is an early epoch, a column up to there before all."""
    variants = [variant["label"] for variant in entry["config"]["variants"]]
    early, last = entry["scale"]["early"], entry["scale"]["epochs"]
    columns = [last] if early is None else [early, last]
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(max(8.0, 5.0 * len(columns)), 0.6 + 3.2 * len(variants)), layout="constrained"
        )
        axes = figure.subplots(len(variants), len(columns), squeeze=False)
        panels = ((variant, until) for variant in variants for until in columns)
        for axis, (variant, until) in zip(axes.ravel(), panels):
            for line in entry["lines"]:
                if line["variant"] == variant:
                    costs = _costs(_best_runs(entry, line))[:, : until + 1]
                    first = 0 if until == early else 1
                    _band(
                        axis,
                        np.arange(first, costs.shape[1]),
                        costs[:, first:],
                        _LOOK[line["optimizer"]],
                        line["optimizer"],
                    )
            title = variant if until != early else f"{variant}, to epoch {early}"
            axis.set(title=title, xlabel="epoch", yscale="log")
            axis.xaxis.get_major_locator().set_params(integer=True)
            _plain_ticks(axis)
        for axis in axes[:, 0]:
            axis.set_ylabel("training cost, nats an example")
        _legend(figure, figure.axes[0])
        return figure


def _sensitivity(entry: dict) -> Figure:
    variants = [variant["label"] for variant in entry["config"]["variants"]]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(8.0, 5.0 * len(variants)), 3.8), layout="constrained")
        for axis, variant in zip(figure.subplots(1, len(variants), squeeze=False)[0], variants):
            axis.set(title=variant, xlabel="learning rate", xscale="log", yscale="log")
            for line in entry["lines"]:
                if line["variant"] == variant:
                    _sensitivity_of(axis, line)
            _plain_ticks(axis)
        figure.axes[0].set_ylabel(f"cost of epoch {entry['scale']['epochs']}, nats")
        _legend(figure, figure.axes[0])
        return figure


def _sensitivity_of(axis: Axes, line: dict) -> None:
    colour, style, marker = _LOOK[line["optimizer"]]
    rates = np.array([tried["learning_rate"] for tried in line["tried"]])
    means = np.array([float(tried["mean"]) for tried in line["tried"]])
    there = np.isfinite(means)
    axis.plot(
        rates[there],
        means[there],
        color=colour,
        linestyle=style,
        marker=marker,
        markersize=4.5,
        label=line["optimizer"],
    )
    best = rates == line["best"]
    axis.plot(
        rates[best & there],
        means[best & there],
        linestyle="none",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=colour,
    )
    for rate in rates[~there]:  # it diverged and has no cost: a cross at the upper edge
        axis.plot(
            rate,
            1,
            linestyle="none",
            marker="x",
            color=colour,
            transform=axis.get_xaxis_transform(),
            clip_on=False,
        )


def _pairs(entry: dict) -> dict[tuple[float, float], tuple[dict, dict]]:
    """Of each (beta1, beta2), the labels with correction and without."""
    found: dict = {}
    for contender in entry["config"]["optimizers"]:
        settings = contender["settings"]
        label = contender["label"] or contender["name"]
        pair = found.setdefault((settings["beta1"], settings["beta2"]), [None, None])
        pair[0 if settings["bias_correction"] else 1] = label
    return dict(sorted(found.items()))


def _grid(entry: dict) -> Figure:
    """The paper's figure 4: a row for each epoch that is looked at, a column for each beta2."""
    pairs = _pairs(entry)
    beta1s, beta2s = (sorted({betas[i] for betas in pairs}) for i in (0, 1))
    epochs = [epoch for epoch in (entry["scale"]["early"], entry["scale"]["epochs"]) if epoch]
    rows = [(epoch, beta1) for epoch in epochs for beta1 in beta1s]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(beta2s), 2.5 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(beta2s), squeeze=False, sharex=True, sharey=True)
        for (epoch, beta1), row in zip(rows, axes):
            for beta2, axis in zip(beta2s, row):
                for label, look, words in zip(
                    pairs[beta1, beta2], (_WITH, _WITHOUT), ("with bias correction", "without")
                ):
                    _over_rates(axis, _runs(entry, optimizer=label), epoch, look, words)
                axis.set(xscale="log", yscale="log")
                axis.set_title(f"β1 {beta1:g}, β2 {beta2:g}, epoch {epoch}", fontsize=9.5)
                _plain_ticks(axis)
            row[0].set_ylabel("cost, nats an image")
        for axis in axes[-1]:
            axis.set_xlabel("step size")
        _legend(figure, axes[0][0])
        return figure


def _over_rates(axis: Axes, runs: list[dict], epoch: int, look: tuple, label: str) -> None:
    colour, style, marker = look
    rates = sorted({run["learning_rate"] for run in runs})
    # A cost above that before training is drawn there: a cross, for it is not a cost to be read.
    costs = np.array(
        [
            [
                min(float(run["costs"][epoch]), float(run["costs"][0]))
                for run in runs
                if run["learning_rate"] == rate
            ]
            for rate in rates
        ]
    ).T
    lost = np.array(
        [
            any(
                not float(run["costs"][epoch]) < float(run["costs"][0])
                for run in runs
                if run["learning_rate"] == rate
            )
            for rate in rates
        ]
    )
    _band(axis, rates, costs, look, label)
    for where, mark in ((~lost, marker), (lost, "x")):
        axis.plot(
            np.array(rates)[where],
            costs.mean(axis=0)[where],
            linestyle="none",
            marker=mark,
            color=colour,
            markersize=5,
        )


def _pair_curves(entry: dict) -> Figure:
    pairs = _pairs(entry)
    beta1s, beta2s = (sorted({betas[i] for betas in pairs}) for i in (0, 1))
    best = {line["optimizer"]: line for line in entry["lines"]}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(beta2s), 2.6 * len(beta1s)), layout="constrained")
        axes = figure.subplots(len(beta1s), len(beta2s), squeeze=False, sharex=True, sharey=True)
        for beta1, row in zip(beta1s, axes):
            for beta2, axis in zip(beta2s, row):
                for label, look, words in zip(
                    pairs[beta1, beta2], (_WITH, _WITHOUT), ("with bias correction", "without")
                ):
                    costs = _costs(_best_runs(entry, best[label]))
                    _band(axis, np.arange(1, costs.shape[1]), costs[:, 1:], look, words)
                axis.set_title(f"β1 {beta1:g}, β2 {beta2:g}", fontsize=9.5)
                axis.set(yscale="log")
                axis.xaxis.get_major_locator().set_params(integer=True)
                _plain_ticks(axis)
            row[0].set_ylabel("cost, nats an image")
        for axis in axes[-1]:
            axis.set_xlabel("epoch")
        _legend(figure, axes[0][0])
        return figure


def _plain_ticks(axis: Axes) -> None:
    """Costs as 0.2 and not as 2 x 10^-1, where less than two decades are shown."""
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


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 5),
        handlelength=3,
        columnspacing=1.2,
        fontsize=9,
    )
