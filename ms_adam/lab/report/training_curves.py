"""The plot of one training: loss over the steps, accuracy over the epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ms_adam.lab.report.plots import STYLE, png

_LINE, _FAINT = "#0072B2", "#7fc1e8"  # as in the other plots


def write_curves(out: Path) -> Optional[Path]:
    """Writes ``curves.png`` beside the ``loss.csv`` and ``accuracy.csv`` that it shows.

    A kill test has none of its own; then returns None.
    """
    if not (out / "loss.csv").exists():
        return None
    losses, accuracies = (_read(out / name) for name in ("loss.csv", "accuracy.csv"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(losses[:, 0], losses[:, 2], color=_FAINT, linewidth=0.6, label="each step")
        epochs = [losses[losses[:, 1] == epoch] for epoch in np.unique(losses[:, 1])]
        means = np.array([lines.mean(axis=0) for lines in epochs])
        left.plot(means[:, 0], means[:, 2], color=_LINE, label="mean of an epoch")
        left.set(title="Loss before each step", xlabel="step", yscale="log")
        left.legend()
        right.plot(accuracies[:, 1], 100 * accuracies[:, 2], color=_LINE, marker="o", markersize=3)
        right.set(title="Test images told right", xlabel="epoch", ylabel="%")
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
        path = out / "curves.png"
        path.write_bytes(png(figure))
    return path


def _read(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
