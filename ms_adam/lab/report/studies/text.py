"""The page of a study on text: exact and lazy Adam on row-sparse and dense gradients."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ms_adam.lab.report import plots
from ms_adam.lab.report.html import fixed, percent, write_claims_page
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
_NOTE = (
    "After the last epoch, means over the seeds. A step is the whole of it: loss, gradients and "
    "update, the median. An exact one is that on dense gradients in graph mode. Modes run one "
    "after the other, so the times of PyNative mode were measured under another load of the "
    "machine. The side that nn.Adam follows has no time of its own."
)
_OF_PAIRS = "These are whole trainings, each with its own gradients."


def write_page(folder: Path) -> Path:
    """Writes the page of a finished run; returns the path of ``index.html``."""
    return write_claims_page(folder, "text.html.j2", _blocks, data_name="bags of words")


def _blocks(entry: dict, arrays: list[dict]) -> dict[str, Any]:
    return {
        "data_sha256": entry["bags_sha256"],
        "training": training_plot(entry["runs"], arrays),
        "table": side_table(entry, arrays),
        "distances": distances(entry["runs"], entry["pairs"], _OF_PAIRS),
    }


@plots.picture
def training_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> Figure:
    """Draws losses and accuracy over the epochs: the mean over seeds in a band."""
    sides = list(dict.fromkeys(row["side"] for row in runs))
    order = [side for side in _DRAWN if side in sides] or sides
    drawn = [pair for pair in zip(runs, arrays) if pair[0]["side"] in order]
    runs, arrays = zip(*sorted(drawn, key=lambda pair: order.index(pair[0]["side"])))
    epochs = len(arrays[0]["test_loss"])
    figure, (axes,) = plots.panels(1, 3, (10, 4.2))
    for axis, title, curve in zip(
        axes,
        (
            "Training loss, mean of the epoch",
            "Loss on held-out snippets",
            "Accuracy on held-out snippets, %",
        ),
        (
            lambda of_run: plots.epoch_means(of_run["loss"], epochs),
            lambda of_run: of_run["test_loss"],
            lambda of_run: 100 * of_run["test_accuracy"],
        ),
    ):
        plots.bands(axis, runs, list(map(curve, arrays)), _look)
        axis.set(title=title, xlabel="epoch")
    plots.whole_numbers(*axes)
    plots.legend_below(figure, ncols=2, handlelength=3)
    return figure


def _look(row: dict, *_: int) -> dict[str, Any]:
    return dict(zip(("color", "linewidth"), _DRAWN.get(row["side"], _OTHER)))


def side_table(entry: dict, arrays: Sequence[dict]) -> Table:
    """Returns the table with a row for each side, over its seeds.

    Epochs are counted to the first one after which the mean accuracy over the seeds is at least the
    config's ``least_accuracy``. Times are in those of the first exact side. A dash stands for what
    was not reached or not measured.
    """
    runs, least = entry["runs"], entry["config"]["compare"]["least_accuracy"]
    with_curves = [{**row, "curve": a["test_accuracy"]} for row, a in zip(runs, arrays)]
    groups = grouped(with_curves, "side")

    def side(rows):
        return SIDES[rows[0]["side"]]

    def epochs(rows):
        reached = np.flatnonzero(np.mean([row["curve"] for row in rows], axis=0) >= least)
        return int(reached[0]) + 1 if len(reached) else None

    def step(rows):
        times = [time for row in rows for time in row["step_ms"] or []]
        return statistics.median(times) if times else None

    columns = (
        Column("Optimizer", lambda rows: side(rows).optimizer),
        Column("Gradients", lambda rows: {"rows": "row-sparse"}.get(side(rows).gradients, "dense")),
        Column("Mode", lambda rows: side(rows).mode),
        number("Training loss", over_seeds(statistics.fmean, "final_loss"), fixed(4)),
        number("Held-out loss", over_seeds(statistics.fmean, "test_loss"), fixed(4)),
        number("Held-out accuracy", over_seeds(statistics.fmean, "test_accuracy"), percent),
        number("Least to most over seeds", over_seeds(percent_range, "test_accuracy")),
        number(f"Epochs to {100 * least:.0f}%", epochs),
        number("A step, ms", step, fixed(2)),
        number(
            "Times an exact one", lambda rows: time_ratio(runs, rows[0]["side"], "exact"), fixed(2)
        ),
    )
    return table(columns, groups.values(), _NOTE)
