"""The page of the study of narrow state: losses, factors to float32, and the table of sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ms_adam.lab.report import plots
from ms_adam.lab.report.html import fixed, percent, write_claims_page
from ms_adam.lab.report.tables import Column, Table, distances, grouped, number, over_seeds, table
from ms_adam.lab.studies.narrow import WIDE, log_ratios

_COLOURS = {
    "float32": plots.GREY,
    "bfloat16": plots.BLUE,
    "int8": plots.VERMILION,
    "masters": plots.PURPLE,
    "split": plots.GREEN,
    "int8, split": plots.ORANGE,
}
_NOTE = (
    "Means over the seeds after the last epoch; the loss is that of the last epoch's batches. The "
    "factor is the geometric mean of loss / loss with float32 state, with its least and largest. "
    "State is all that the optimizer keeps, bytes a parameter: in int8 one exponent for a block of "
    "256 or less comes to it, and split and masters keep part of the weight."
)


def write_page(folder: Path) -> Path:
    """Writes the page of a finished run; returns the path of ``index.html``."""
    return write_claims_page(folder, "narrow.html.j2", _blocks, data_name="images")


def _blocks(entry: dict, arrays: list[dict]) -> dict[str, Any]:
    return {
        "data_sha256": entry["images_sha256"],
        "training": training_plot(entry["runs"], arrays),
        "table": side_table(entry["runs"]),
        "distances": distances(entry["runs"], entry["pairs"]),
    }


@plots.picture
def training_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> Figure:
    """Draws the losses over the epochs, and the losses beside that of float32 from each seed."""
    epochs = len(arrays[0]["test_loss"])
    figure, ((left, right),) = plots.panels(1, 2, (10, 3.8))
    losses = [plots.epoch_means(of_run["loss"], epochs) for of_run in arrays]
    wide = {row["seed"]: own for row, own in zip(runs, losses) if row["optimizer"] == WIDE}
    plots.bands(left, runs, losses, _look)
    left.set(title="Training loss, mean of the epoch", xlabel="epoch", yscale="log")
    others = [
        (row, own / wide[row["seed"]]) for row, own in zip(runs, losses) if row["seed"] in wide
    ]
    if others:
        plots.bands(right, *zip(*others), _look)
    right.set(title="Training loss / that with float32 state", xlabel="epoch")
    plots.whole_numbers(left, right)
    plots.legend_below(figure, ncols=3, handlelength=3)
    return figure


def _look(row: dict, *_: int) -> dict[str, Any]:
    return {"color": _COLOURS[row["optimizer"]]}


def side_table(runs: Sequence[dict]) -> Table:
    """Returns the table with a row for each side, over its seeds."""

    def factor(rows):
        logs = log_ratios(list(runs), rows[0]["optimizer"])
        if not len(logs):
            return None
        mean, least, largest = np.exp([logs.mean(), logs.min(), logs.max()])
        return f"{mean:.4f} ({least:.4f} to {largest:.4f})"

    columns = (
        Column("State", lambda rows: rows[0]["optimizer"], None, "name"),
        Column("Backend", lambda rows: rows[0]["backend"]),
        number("Bytes a parameter", over_seeds(np.mean, "state_bytes"), fixed(2)),
        number("Training loss", over_seeds(np.mean, "final_loss"), fixed(5)),
        number("Factor to float32", factor),
        number("Test loss", over_seeds(np.mean, "test_loss"), fixed(4)),
        number("Test accuracy", over_seeds(np.mean, "test_accuracy"), percent),
    )
    return table(columns, grouped(runs, "optimizer").values(), _NOTE)
