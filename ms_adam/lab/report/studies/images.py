"""The page of a study on images: errors to the float64 shadows, curves, and tables of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure

from ms_adam.lab.report import plots
from ms_adam.lab.report.html import fixed, percent, power, read_results
from ms_adam.lab.report.html import write_page as write_html
from ms_adam.lab.report.plots import (
    band,
    legend_below,
    nested,
    note,
    panels,
    picture,
    whole_numbers,
)
from ms_adam.lab.report.tables import Column, Table, distances, number, table
from ms_adam.lab.run.trainings import REFERENCE

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
_PAIRS_NOTE = (
    "||difference|| / ||distance travelled from the first parameters||, Euclidean, the largest "
    "over the seeds; 0 means equal bits. These are whole trainings: unlike the distances to the "
    "shadows above, they include drift."
)


def write_page(folder: Path) -> Path:
    """Writes the page of a finished run.

    Args:
        folder: Holds ``results.json`` and, for each experiment, a folder of ``.npz`` files.

    Returns:
        The path of ``index.html``.
    """
    content = read_results(folder)
    return write_html(
        folder,
        "images.html.j2",
        environment=content["environment"],
        entries=[_entry(folder, entry) for entry in content["results"]],
        data_name="images",
    )


def _entry(folder: Path, entry: dict) -> dict[str, Any]:
    runs = entry["runs"]
    arrays = read_arrays(folder / entry["experiment"], runs)
    labels = list(dict.fromkeys(row["label"] for row in runs))
    return {
        **entry,
        "data_sha256": entry["images_sha256"],
        "errors": error_plot(runs, arrays),
        "training": training_plot(runs, arrays),
        "drift": drift_plot(runs, arrays),
        "table": run_table(runs),
        "distances": distances(labels, entry["pairs"], _PAIRS_NOTE),
        "minutes": sum(row["seconds"] for row in runs) / 60,
    }


def read_arrays(folder: Path, runs: Sequence[dict]) -> list[dict[str, np.ndarray]]:
    """Reads the arrays of each run."""
    found = []
    for row in runs:
        with np.load(folder / row["file"]) as arrays:
            found.append(dict(arrays.items()))
    return found


def run_table(runs: Sequence[dict]) -> Table:
    """Returns the table with a row for each optimizer and mode, over its seeds."""
    groups: dict[str, list[dict]] = {}
    for row in runs:
        groups.setdefault(row["label"], []).append(row)
    accuracy = "test_accuracy"
    columns = (
        Column("Run", lambda rows: rows[0]["label"], None, "name"),
        Column("Backend", lambda rows: rows[0]["backend"]),
        number("Loss", _over(np.mean, "final_loss"), fixed(4)),
        number("Training accuracy", _over(np.mean, "train_accuracy"), percent),
        number("Test accuracy", _over(np.mean, accuracy), percent),
        number("Least to most over seeds", lambda rows: percent_range(_values(rows, accuracy))),
        number("To Algorithm 1", _over(np.max, "error_algorithm1"), power),
        number("To epsilon-hat", _over(np.max, "error_epsilon_hat"), power),
        number("Limit", _over(np.max, "rounding_bound"), power),
    )
    return table(columns, groups.values(), _NOTE)


def percent_range(values: Sequence[float]) -> str:
    """Writes the range of shares over seeds."""
    return f"{percent(min(values))} to {percent(max(values))}"


def _over(statistic: Callable, name: str) -> Callable[[list[dict]], Optional[float]]:
    """Returns a function of rows: a statistic of their numbers, None if they have none."""

    def of_rows(rows: list[dict]) -> Optional[float]:
        values = _values(rows, name)
        return float(statistic(values)) if values else None

    return of_rows


def _values(rows: list[dict], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row[name] is not None]  # float("nan") is NaN


@picture
def error_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> Figure:
    """Draws the distance to the two float64 shadows over the steps, with the rounding bound.

    Args:
        runs: The rows of ``runs`` in ``results.json``.
        arrays: The arrays of each, in the same order.
    """
    bounds = [row["rounding_bound"] for row in runs if isinstance(row["rounding_bound"], float)]
    figure, axes = panels(1, 2, (10, 3.8), sharey=True)
    for axis, name, title in zip(
        axes.flat,
        ("error_algorithm1", "error_epsilon_hat"),
        ("Distance to Algorithm 1", "Distance to the epsilon-hat form"),
    ):
        _draw(axis, runs, arrays, name)
        if bounds:
            axis.axhline(max(bounds), color="black", linewidth=0.8, linestyle=":")
            words = "limit: rounding alone explains this much at the last step"
            note(axis, words, 0.01, max(bounds))
        axis.set(title=title, xlabel="step", xscale="log", yscale="log")
    axes[0, 0].set_ylabel("relative error of the parameters")
    _legend(figure)
    return figure


@picture
def training_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> Figure:
    """Draws loss and accuracy over the epochs: the mean over seeds in a band from least to most."""
    epochs = len(arrays[0]["test_accuracy"])
    figure, axes = panels(1, 2, (10, 3.8))
    left, right = axes.flat
    _draw(left, runs, arrays, "loss", lambda curve: curve.reshape(epochs, -1).mean(axis=1))
    _draw(right, runs, arrays, "test_accuracy", lambda accuracy: 100 * accuracy)
    left.set(title="Training loss, mean of the epoch", xlabel="epoch", yscale="log")
    right.set(title="Accuracy on the test images, %", xlabel="epoch")
    whole_numbers(left, right)
    _legend(figure)
    return figure


@picture
def drift_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> Figure:
    """Draws how far each run's loss is from that of the float64 reference run with its seed.

    Curves that coincide in `training_plot` separate here. A difference of zero has no place on a
    logarithmic axis and is left out.
    """
    pairs = list(zip(runs, arrays))
    loss = {row["seed"]: of_run["loss"] for row, of_run in pairs if row["optimizer"] == REFERENCE}
    differences = [
        {"drift": plots.positive(np.abs(of_run["loss"] - loss[row["seed"]]))}
        if row["optimizer"] != REFERENCE
        else {}
        for row, of_run in pairs
    ]
    figure, ((axis,),) = panels(1, 1, (10, 3.4))
    _draw(axis, runs, differences, "drift")
    title = "Difference of the batch loss to that of the float64 reference"
    axis.set(title=title, xlabel="step", xscale="log", yscale="log")
    _legend(figure)
    return figure


def _draw(axis, runs: Sequence[dict], arrays: Sequence[dict], name: str, shape=np.asarray) -> None:
    """Draws a line and a band for each optimizer and mode, over its seeds."""
    groups: dict[str, list] = {}
    for row, of_run in sorted(
        zip(runs, arrays), key=lambda pair: pair[0]["optimizer"] != REFERENCE
    ):
        if name in of_run:
            groups.setdefault(row["label"], [row]).append(shape(of_run[name]))
    for place, (label, (row, *curves)) in enumerate(groups.items()):
        colour = _COLOURS.get((row["optimizer"], row["mode"]), _REFERENCE_COLOUR)
        band(axis, curves, label, color=colour, linewidth=nested(place, len(groups)))


def _legend(figure: Figure) -> None:
    lines, _ = figure.axes[0].get_legend_handles_labels()
    lines.sort(key=lambda line: line.get_label() == REFERENCE)  # last: each optimizer has a column
    legend_below(figure, lines, ncols=math.ceil(len(lines) / 2), handlelength=3)
