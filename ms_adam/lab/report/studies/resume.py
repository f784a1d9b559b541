"""The picture of one training: loss over the steps, accuracy over the epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np
from matplotlib.figure import Figure

from ms_adam.lab.report.plots import BLUE, PALE_BLUE, panels, picture, whole_numbers


def write_page(out: Path) -> Optional[Path]:
    """Writes ``curves.png`` beside the ``loss.csv`` and ``accuracy.csv`` that it shows.

    Returns:
        Its path; None in the folder of a kill test, which has no curve of its own.
    """
    if not (out / "loss.csv").exists():
        return None
    path = out / "curves.png"
    path.write_bytes(curves(*(_read(out / name) for name in ("loss.csv", "accuracy.csv"))))
    return path


@picture
def curves(losses: np.ndarray, accuracies: np.ndarray) -> Figure:
    """Draws the lines of the two files: step, epoch, number."""
    figure, ((left, right),) = panels(1, 2, (10, 3.6))
    left.plot(losses[:, 0], losses[:, 2], color=PALE_BLUE, linewidth=0.6, label="each step")
    epochs = [losses[losses[:, 1] == epoch] for epoch in np.unique(losses[:, 1])]
    means = np.array([lines.mean(axis=0) for lines in epochs])
    left.plot(means[:, 0], means[:, 2], color=BLUE, label="mean of an epoch")
    left.set(title="Loss before each step", xlabel="step", yscale="log")
    left.legend()
    right.plot(accuracies[:, 1], 100 * accuracies[:, 2], color=BLUE, marker="o", markersize=3)
    right.set(title="Accuracy on the test images", xlabel="epoch", ylabel="%")
    whole_numbers(right)
    return figure


def _read(path: Path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
