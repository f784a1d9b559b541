"""The page of a study on text: exact and lazy Adam on row-sparse and dense gradients."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure

from ms_adam.lab.report import plots
from ms_adam.lab.report.html import fixed, percent, read_results
from ms_adam.lab.report.html import write_page as write_html
from ms_adam.lab.report.plots import band, legend_below, panels, picture, whole_numbers
from ms_adam.lab.report.studies.images import percent_range, read_arrays
from ms_adam.lab.report.tables import Column, Table, distances, number, table
from ms_adam.lab.studies.text.claims import time_ratio
from ms_adam.lab.studies.text.sides import SIDES

# Of sides that coincide, the broader line is drawn first. The other sides would lie on these.
_DRAWN = {
    "exact": (plots.GREEN, 2.2),
    "nn_lazy_default": (plots.PURPLE, 1.6),
    "nn_lazy": (plots.ORANGE, 4.0),
    "lazy": (plots.PALE_BLUE, 2.4),
    "lazy_pynative": (plots.BLUE, 1.0),
}
_OTHER = ("#5b6470", 1.0)  # where the config asks for none of these
_PANELS = {
    "train_loss": "Training loss, mean of the epoch",
    "test_loss": "Loss on held-out snippets",
    "test_accuracy": "Accuracy on held-out snippets, %",
}
_NOTE = (
    "After the last epoch, means over the seeds. A step is the whole of it: loss, gradients and "
    "update, the median. An exact one is that on dense gradients in graph mode. Modes run one "
    "after the other, so the times of PyNative mode were measured under another load of the "
    "machine. The side that nn.Adam follows has no time of its own."
)
_PAIRS_NOTE = (
    "||difference|| / ||distance travelled from the first parameters||, Euclidean, the largest "
    "over the seeds; 0 means equal bits. These are whole trainings, each with its own gradients."
)


def write_page(folder: Path) -> Path:
    """Writes the page of a finished run, as that of `images.write_page`."""
    content = read_results(folder)
    return write_html(
        folder,
        "text.html.j2",
        environment=content["environment"],
        entries=[_entry(folder, entry) for entry in content["results"]],
        data_name="bags of words",
    )


def _entry(folder: Path, entry: dict) -> dict[str, Any]:
    runs = entry["runs"]
    arrays = read_arrays(folder / entry["experiment"], runs)
    labels = list(dict.fromkeys(row["label"] for row in runs))
    return {
        **entry,
        "data_sha256": entry["bags_sha256"],
        "training": training_plot(runs, arrays),
        "table": side_table(entry, arrays),
        "distances": distances(labels, entry["pairs"], _PAIRS_NOTE),
        "minutes": sum(row["seconds"] for row in runs) / 60,
    }


@picture
def training_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> Figure:
    """Draws losses and accuracy over the epochs: the mean over seeds in a band.

    Args:
        runs: The rows of ``runs`` in ``results.json``.
        arrays: The arrays of each, in the same order.
    """
    figure, (axes,) = panels(1, 3, (10, 4.2))
    sides = dict.fromkeys(row["side"] for row in runs)
    for side in [side for side in _DRAWN if side in sides] or sides:
        colour, width = _DRAWN.get(side, _OTHER)
        own = [(row["label"], of_run) for row, of_run in zip(runs, arrays) if row["side"] == side]
        for axis, name in zip(axes, _PANELS):
            curves = [_curve(of_run, name) for _, of_run in own]
            band(axis, curves, own[0][0], color=colour, linewidth=width)
    for axis, title in zip(axes, _PANELS.values()):
        axis.set(title=title, xlabel="epoch")
    whole_numbers(*axes)
    legend_below(figure, ncols=2, handlelength=3)
    return figure


def _curve(arrays: dict, name: str) -> np.ndarray:
    """Returns the values of one run, one for each epoch."""
    if name == "train_loss":
        return arrays["loss"].reshape(len(arrays["test_loss"]), -1).mean(axis=1)
    return 100 * arrays[name] if name == "test_accuracy" else arrays[name]


def side_table(entry: dict, arrays: Sequence[dict]) -> Table:
    """Returns the table with a row for each side, over its seeds.

    Epochs are counted to the first one after which the mean accuracy over the seeds is at least the
    config's ``least_accuracy``. Times are in those of the first exact side. A dash stands for what
    was not reached or not measured.
    """
    runs = entry["runs"]
    least = entry["config"]["compare"]["least_accuracy"]
    groups = []
    for side in dict.fromkeys(row["side"] for row in runs):
        own = [(row, of_run) for row, of_run in zip(runs, arrays) if row["side"] == side]
        curve = np.mean([of_run["test_accuracy"] for _, of_run in own], axis=0)
        rows = [row for row, _ in own]
        times = [time for row in rows for time in row["step_ms"] or []]
        groups.append(
            {
                "side": SIDES[side],
                "epochs": _first_at_least(curve, least),
                "step": statistics.median(times) if times else None,
                "ratio": time_ratio(runs, side, "exact"),
                **{
                    name: [float(row[name]) for row in rows]
                    for name in ("final_loss", "test_loss", "test_accuracy")
                },
            }
        )

    def mean(name):
        return lambda group: statistics.fmean(group[name])

    columns = (
        Column("Optimizer", lambda group: group["side"].optimizer),
        Column(
            "Gradients",
            lambda group: "row-sparse" if group["side"].gradients == "rows" else "dense",
        ),
        Column("Mode", lambda group: group["side"].mode),
        number("Training loss", mean("final_loss"), fixed(4)),
        number("Held-out loss", mean("test_loss"), fixed(4)),
        number("Held-out accuracy", mean("test_accuracy"), percent),
        number("Least to most over seeds", "test_accuracy", percent_range),
        number(f"Epochs to {100 * least:.0f}%", "epochs"),
        number("A step, ms", "step", fixed(2)),
        number("Times an exact one", "ratio", fixed(2)),
    )
    return table(columns, groups, _NOTE)


def _first_at_least(curve: np.ndarray, least: float) -> Optional[int]:
    reached = np.flatnonzero(curve >= least)
    return int(reached[0]) + 1 if len(reached) else None
