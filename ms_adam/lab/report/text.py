"""The part of a report that tells of an experiment on text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Optional

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot: no screen, and nothing global is kept

from ms_adam.lab.report.plots import STYLE, band, png
from ms_adam.lab.studies.text.claims import time_ratio
from ms_adam.lab.studies.text.sides import SIDES

# Okabe & Ito 2008. Sides that lie on each other: the broader line is drawn first. The other sides
# would lie on these.
_DRAWN = {
    "exact": ("#009E73", 2.2),
    "nn_lazy_default": ("#CC79A7", 1.6),
    "nn_lazy": ("#E69F00", 4.0),
    "lazy": ("#7fc1e8", 2.4),
    "lazy_pynative": ("#0072B2", 1.0),
}
_OTHER = ("#5b6470", 1.0)  # where none of these was asked for


def training_plot(runs: Sequence[dict], arrays: Sequence[dict]) -> bytes:
    """Losses and accuracy over the epochs: the mean over seeds in a band from least to most.

    Args:
        runs: The rows of ``runs`` in ``results.json``.
        arrays: The arrays of each, in the same order.

    Returns:
        A PNG.
    """
    panels = {
        "train_loss": "Training loss, mean of the epoch",
        "test_loss": "Loss on held-out snippets",
        "test_accuracy": "Accuracy on held-out snippets, %",
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        axes = figure.subplots(1, 3)
        sides = dict.fromkeys(row["side"] for row in runs)
        for side in [side for side in _DRAWN if side in sides] or sides:
            colour, width = _DRAWN.get(side, _OTHER)
            own = [(row, of_run) for row, of_run in zip(runs, arrays) if row["side"] == side]
            for axis, name in zip(axes, panels):
                curves = [_curve(of_run, name) for _, of_run in own]
                band(axis, curves, own[0][0]["label"], colour, width)
        for axis, title in zip(axes, panels.values()):
            axis.set(title=title, xlabel="epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
        lines, _ = axes[0].get_legend_handles_labels()
        figure.legend(handles=lines, loc="outside lower center", ncols=2, handlelength=3)
        return png(figure)


def _curve(arrays: dict, name: str) -> np.ndarray:
    """The values of one run, one for each epoch."""
    if name == "train_loss":
        return arrays["loss"].reshape(len(arrays["test_loss"]), -1).mean(axis=1)
    return 100 * arrays[name] if name == "test_accuracy" else arrays[name]


PLOTS = {"training": training_plot}


def table(entry: dict, arrays: Sequence[dict]) -> list[dict]:
    """One line for each side, over its seeds.

    ``epochs_to_least`` is the first epoch after which the mean accuracy over the seeds is at least
    the config's ``least_accuracy``; ``times_exact`` the time of a step in that of the first exact
    side. None stands for what was not reached or not measured.
    """
    runs = entry["runs"]
    least = entry["config"]["compare"]["least_accuracy"]
    lines = []
    for side in dict.fromkeys(row["side"] for row in runs):
        rows = [row for row in runs if row["side"] == side]
        accuracy = [float(row["test_accuracy"]) for row in rows]
        curves = [of_run["test_accuracy"] for row, of_run in zip(runs, arrays) if row in rows]
        times = [time for row in rows for time in row["step_ms"] or []]
        lines.append(
            {
                "optimizer": SIDES[side].optimizer,
                "gradients": "row-sparse" if SIDES[side].gradients == "rows" else "dense",
                "mode": SIDES[side].mode,
                "final_loss": statistics.fmean(float(row["final_loss"]) for row in rows),
                "test_loss": statistics.fmean(float(row["test_loss"]) for row in rows),
                "test_accuracy": statistics.fmean(accuracy),
                "least": min(accuracy),
                "most": max(accuracy),
                "epochs_to_least": _first_at_least(np.mean(curves, axis=0), least),
                "step_ms": statistics.median(times) if times else None,
                "times_exact": time_ratio(runs, side, "exact"),
            }
        )
    return lines


def _first_at_least(curve: np.ndarray, least: float) -> Optional[int]:
    reached = np.flatnonzero(curve >= least)
    return int(reached[0]) + 1 if len(reached) else None
