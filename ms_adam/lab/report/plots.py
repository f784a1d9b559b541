"""The plots of a report, drawn from the arrays of the runs."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Callable

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot: no screen, and nothing global is kept

from ms_adam.lab.run.trainings import REFERENCE

# Okabe & Ito 2008: told apart with every common kind of colour blindness. Graph mode has a tint of
# its optimizer's colour.
_COLOURS = {
    ("ms_adam.Adam", "graph"): "#7fc1e8",
    ("ms_adam.Adam", "pynative"): "#0072B2",
    ("mindspore.nn.Adam", "graph"): "#f7b183",
    ("mindspore.nn.Adam", "pynative"): "#D55E00",
}
_REFERENCE_COLOUR = "#c4c4c4"
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def error_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> bytes:
    """Distance to the two float64 shadows over the steps, with the rounding bound.

    Args:
        runs: The rows of ``runs`` in ``results.json``.
        arrays: The arrays of each, in the same order.

    Returns:
        A PNG.
    """
    panels = {
        "error_algorithm1": "Distance to Algorithm 1",
        "error_epsilon_hat": "Distance to the epsilon-hat form",
    }
    bounds = [row["rounding_bound"] for row in runs if isinstance(row["rounding_bound"], float)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (name, title) in zip(axes, panels.items()):
            _draw(axis, runs, arrays, name)
            if bounds:
                axis.axhline(max(bounds), color="black", linewidth=0.8, linestyle=":")
                axis.annotate(
                    "limit: what roundings alone explain at the last step",
                    (0.01, max(bounds)),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 3),
                    textcoords="offset points",
                    fontsize=8.5,
                )
            axis.set(title=title, xlabel="step", xscale="log", yscale="log")
        axes[0].set_ylabel("relative error of the parameters")
        _legend(figure)
        return png(figure)


def training_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> bytes:
    """Loss and accuracy over the epochs: the mean over seeds in a band from least to most."""
    epochs = len(arrays[0]["test_accuracy"])

    def epoch_mean(curve: np.ndarray) -> np.ndarray:
        return curve.reshape(epochs, -1).mean(axis=1)

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        axes = figure.subplots(1, 2)
        _draw(axes[0], runs, arrays, "loss", epoch_mean)
        _draw(axes[1], runs, arrays, "test_accuracy", lambda accuracy: 100 * accuracy)
        axes[0].set(title="Training loss, mean of the epoch", xlabel="epoch", yscale="log")
        axes[1].set(title="Accuracy on the test images, %", xlabel="epoch")
        for axis in axes:
            axis.xaxis.get_major_locator().set_params(integer=True)
        _legend(figure)
        return png(figure)


def drift_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> bytes:
    """How far each run's loss is from that of the float64 reference run with its seed.

    Curves that lie on each other in `training_plot` part here. A difference of zero can not stand
    on a logarithmic axis and is left out.
    """
    loss = {
        row["seed"]: of_run["loss"]
        for row, of_run in zip(runs, arrays)
        if row["optimizer"] == REFERENCE
    }
    differences = [
        {"drift": _positive(np.abs(of_run["loss"] - loss[row["seed"]]))}
        if row["optimizer"] != REFERENCE
        else {}
        for row, of_run in zip(runs, arrays)
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        axis = figure.subplots()
        _draw(axis, runs, differences, "drift")
        axis.set(
            title="Difference of the batch loss to that of the float64 reference",
            xlabel="step",
            xscale="log",
            yscale="log",
        )
        _legend(figure)
        return png(figure)


def _draw(axis, runs: Sequence[dict], arrays: Sequence[dict], name: str, shape=np.asarray) -> None:
    """Draws one line and band for each optimizer and mode, over its seeds.

    Curves that coincide stay visible: each is drawn on the one before it, and is thinner.
    """
    groups = _grouped(runs, arrays, name)
    for place, (row, curves) in enumerate(groups):
        colour = _COLOURS.get((row["optimizer"], row["mode"]), _REFERENCE_COLOUR)
        width = 0.9 + 0.9 * (len(groups) - 1 - place)
        band(axis, [shape(curve) for curve in curves], row["label"], colour, width)


def band(axis, curves: Sequence[np.ndarray], label: str, colour: str, width: float) -> None:
    """Draws the mean of curves in a band from the least to the most."""
    x = np.arange(1, len(curves[0]) + 1)
    table = np.ma.masked_invalid(curves)
    axis.fill_between(x, table.min(axis=0), table.max(axis=0), color=colour, alpha=0.15, lw=0)
    axis.plot(
        x, table.mean(axis=0), label=label, color=colour, linewidth=width, solid_capstyle="round"
    )


def _grouped(runs: Sequence[dict], arrays: Sequence[dict], name: str) -> list[tuple]:
    """(A row that stands for its group, the curves) for each optimizer and mode."""
    rows: dict[str, dict] = {}
    curves: dict[str, list[np.ndarray]] = {}
    for row, of_run in zip(runs, arrays):
        if name in of_run:
            rows.setdefault(row["label"], row)
            curves.setdefault(row["label"], []).append(of_run[name])
    order = sorted(rows, key=lambda label: rows[label]["optimizer"] != REFERENCE)  # comes first
    return [(rows[label], curves[label]) for label in order]


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _legend(figure) -> None:
    lines, _ = figure.axes[0].get_legend_handles_labels()
    lines.sort(key=lambda line: line.get_label() == REFERENCE)  # last: each optimizer has a column
    columns = math.ceil(len(lines) / 2)
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, handlelength=3)


def png(figure) -> bytes:
    memory = io.BytesIO()
    # No software version or date in the file: the same runs give the same bytes.
    figure.savefig(memory, format="png", dpi=160, metadata={"Software": None})
    return memory.getvalue()


PLOTS: dict[str, Callable[[Sequence[dict], Sequence[dict]], bytes]] = {
    "errors": error_plot,
    "training": training_plot,
    "drift": drift_plot,
}
