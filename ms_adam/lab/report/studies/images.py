"""The page of a study on images: errors to the float64 shadows, curves, and tables of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ms_adam.lab.report import plots
from ms_adam.lab.report.html import fixed, percent, power, write_claims_page
from ms_adam.lab.report.tables import (
    Column,
    Table,
    distances,
    grouped,
    number,
    over_seeds,
    percent_range,
    table,
)
from ms_adam.lab.sides import REFERENCE

# Graph mode has a tint of its optimizer's colour.
_COLOURS = {
    ("ms_adam.Adam", "graph"): plots.PALE_BLUE,
    ("ms_adam.Adam", "pynative"): plots.BLUE,
    ("mindspore.nn.Adam", "graph"): plots.PALE_VERMILION,
    ("mindspore.nn.Adam", "pynative"): plots.VERMILION,
}
_REFERENCE_COLOUR = "#c4c4c4"
_NOTE = (
    "Loss and accuracies are means over the seeds after the last epoch; the loss is that of the "
    "last epoch's batches. Distances to the two float64 shadows are the largest over the seeds."
)
_OF_PAIRS = (
    "These are whole trainings: unlike the distances to the shadows above, they include drift."
)


def write_page(folder: Path) -> Path:
    """Writes the page of a finished run; returns the path of ``index.html``."""
    return write_claims_page(folder, "images.html.j2", _blocks, data_name="images")


def _blocks(entry: dict, arrays: list[dict]) -> dict[str, Any]:
    runs = entry["runs"]
    return {
        "data_sha256": entry["images_sha256"],
        "errors": error_plot(runs, arrays),
        "training": training_plot(runs, arrays),
        "drift": drift_plot(runs, arrays),
        "table": run_table(runs),
        "distances": distances(runs, entry["pairs"], _OF_PAIRS),
    }


def run_table(runs: Sequence[dict]) -> Table:
    """Returns the table with a row for each optimizer and mode, over its seeds."""
    columns = (
        Column("Run", lambda rows: rows[0]["label"], None, "name"),
        Column("Backend", lambda rows: rows[0]["backend"]),
        number("Loss", over_seeds(np.mean, "final_loss"), fixed(4)),
        number("Training accuracy", over_seeds(np.mean, "train_accuracy"), percent),
        number("Test accuracy", over_seeds(np.mean, "test_accuracy"), percent),
        number("Least to most over seeds", over_seeds(percent_range, "test_accuracy")),
        number("To Algorithm 1", over_seeds(np.max, "error_algorithm1"), power),
        number("To epsilon-hat", over_seeds(np.max, "error_epsilon_hat"), power),
        number("Limit", over_seeds(np.max, "rounding_bound"), power),
    )
    return table(columns, grouped(runs, "label").values(), _NOTE)


# All plots draw a line and a band over the seeds for each optimizer and mode. They take the rows of
# ``runs`` in ``results.json`` and the arrays of each, in the same order.


@plots.picture
def error_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> Figure:
    """Draws the distance to the two float64 shadows over the steps, with the rounding bound."""
    bounds = [row["rounding_bound"] for row in runs if isinstance(row["rounding_bound"], float)]
    figure, axes = plots.panels(1, 2, (10, 3.8), sharey=True)
    titles = {
        "error_algorithm1": "Distance to Algorithm 1",
        "error_epsilon_hat": "Distance to the epsilon-hat form",
    }
    for axis, (name, title) in zip(axes.flat, titles.items()):
        _draw(axis, runs, [of_run.get(name) for of_run in arrays])
        if bounds:
            axis.axhline(max(bounds), color="black", linewidth=0.8, linestyle=":")
            words = "limit: rounding alone explains this much at the last step"
            plots.note(axis, words, 0.01, max(bounds))
        axis.set(title=title, xlabel="step", xscale="log", yscale="log")
    axes[0, 0].set_ylabel("relative error of the parameters")
    return _with_legend(figure)


@plots.picture
def training_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> Figure:
    """Draws loss and accuracy over the epochs."""
    epochs = len(arrays[0]["test_accuracy"])
    figure, ((left, right),) = plots.panels(1, 2, (10, 3.8))
    _draw(left, runs, [plots.epoch_means(of_run["loss"], epochs) for of_run in arrays])
    _draw(right, runs, [100 * of_run["test_accuracy"] for of_run in arrays])
    left.set(title="Training loss, mean of the epoch", xlabel="epoch", yscale="log")
    right.set(title="Accuracy on the test images, %", xlabel="epoch")
    plots.whole_numbers(left, right)
    return _with_legend(figure)


@plots.picture
def drift_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> Figure:
    """Draws how far each run's loss is from that of the float64 reference run with its seed.

    Curves that coincide in `training_plot` separate here. A difference of zero has no place on a
    logarithmic axis and is left out.
    """
    pairs = list(zip(runs, arrays))
    loss = {row["seed"]: of_run["loss"] for row, of_run in pairs if row["optimizer"] == REFERENCE}
    differences = [
        None
        if row["optimizer"] == REFERENCE
        else plots.positive(np.abs(of_run["loss"] - loss[row["seed"]]))
        for row, of_run in pairs
    ]
    figure, ((axis,),) = plots.panels(1, 1, (10, 3.4))
    _draw(axis, runs, differences)
    title = "Difference of the batch loss to that of the float64 reference"
    axis.set(title=title, xlabel="step", xscale="log", yscale="log")
    return _with_legend(figure)


def _draw(axis, runs: Sequence[dict], curves: Sequence) -> None:
    """Draws the reference first, and each curve thinner than those before."""
    first = sorted(zip(runs, curves), key=lambda pair: pair[0]["optimizer"] != REFERENCE)

    def look(row: dict, place: int, count: int) -> dict:
        colour = _COLOURS.get((row["optimizer"], row["mode"]), _REFERENCE_COLOUR)
        return {"color": colour, "linewidth": plots.nested(place, count)}

    plots.bands(axis, *zip(*first), look)


def _with_legend(figure: Figure) -> Figure:
    lines, _ = figure.axes[0].get_legend_handles_labels()
    lines.sort(key=lambda line: line.get_label() == REFERENCE)  # last: each optimizer has a column
    plots.legend_below(figure, lines, ncols=math.ceil(len(lines) / 2), handlelength=3)
    return figure
