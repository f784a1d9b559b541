"""What all plots share: style, colours, bands over seeds, and PNG."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import Any, Callable, Optional

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no screen, and nothing global is kept

# Okabe & Ito 2008: distinguishable with every common kind of colour blindness.
BLACK, ORANGE, GREEN, PURPLE = "#000000", "#E69F00", "#009E73", "#CC79A7"
VERMILION, BLUE, SKY, YELLOW = "#D55E00", "#0072B2", "#56B4E9", "#F0E442"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, "#B8A800")
PALE_BLUE, PALE_VERMILION, GREY = "#7fc1e8", "#f7b183", "#8a8a8a"  # tints, and what is beside
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
    "figure.dpi": 160,
    "savefig.dpi": "figure",
}
NO_GRID = {**STYLE, "axes.grid": False}


def picture(draw: Optional[Callable[..., Figure]] = None, *, style: dict = STYLE) -> Callable:
    """Decorates a function that returns a figure: it then returns the PNG, in the common style."""
    if draw is None:
        return functools.partial(picture, style=style)

    @functools.wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> bytes:
        with matplotlib.rc_context(style):
            return png(draw(*arguments, **options))

    return drawn


def png(figure: Figure) -> bytes:
    """Returns a figure as PNG."""
    memory = io.BytesIO()
    # No software version or date in the file: the same runs give the same bytes.
    figure.savefig(memory, format="png", metadata={"Software": None})
    return memory.getvalue()


def panels(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple:
    """Returns a figure and its axes, an array of shape (rows, columns)."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def band(axis: Axes, curves: Sequence[np.ndarray], label: str, x=None, **look: Any) -> None:
    """Draws the mean of curves, one for each seed, in a band from the least to the most.

    The points stand at `x`: 1, 2, 3, ... if not given. The line's ``color`` is the band's too.
    """
    x = np.arange(1, len(curves[0]) + 1) if x is None else x
    values = np.ma.masked_invalid(curves)
    axis.fill_between(
        x, values.min(axis=0), values.max(axis=0), color=look["color"], alpha=0.16, linewidth=0
    )
    axis.plot(x, values.mean(axis=0), label=label, solid_capstyle="round", **look)


def bands(axis: Axes, runs: Sequence[dict], curves: Sequence, look: Callable[..., dict]) -> None:
    """Draws a line and a band over the seeds for each label of runs.

    Args:
        axis: Where to draw.
        runs: Rows with a label, in the order in which they are drawn.
        curves: Of each run, None if it has none.
        look: Takes a row, the label's place and the number of labels; returns options of `band`.
    """
    groups: dict[str, list] = {}
    for row, curve in zip(runs, curves):
        if curve is not None:
            groups.setdefault(row["label"], [row]).append(curve)
    for place, (label, (row, *own)) in enumerate(groups.items()):
        band(axis, own, label, **look(row, place, len(groups)))


def epoch_means(losses: np.ndarray, epochs: int) -> np.ndarray:
    """Returns the mean of each epoch's losses."""
    return losses.reshape(epochs, -1).mean(axis=1)


def nested(place: int, count: int, step: float = 0.9) -> float:
    """Returns the line width of a curve, less for each: coinciding curves stay visible."""
    return 0.9 + step * (count - 1 - place)


def note(axis: Axes, text: str, x: float, y: float, above: float = 3, **look: Any) -> None:
    """Writes a small note at y, so many points above it, and x, a share of the axis' width."""
    where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axis.annotate(text, (x, y), xytext=(0, above), fontsize=8.5, **where, **look)


def whole_numbers(*axes: Axes) -> None:
    """Puts ticks of the horizontal axes at whole numbers."""
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)


def legend_below(figure: Figure, handles: Optional[Sequence] = None, **options: Any) -> None:
    """Puts a legend below the figure, by default of the curves of its first axes."""
    if handles is None:
        handles, _ = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside lower center", **options)


def positive(values: Sequence) -> np.ndarray:
    """Returns numbers for a logarithmic axis, which has no place for 0: NaN where not positive."""
    array = floats(values)
    return np.where(array > 0, array, np.nan)


def floats(values: Sequence) -> np.ndarray:
    """Returns numbers of a JSON file, NaN for its words "nan", "inf" and for null."""
    array = np.array(values, dtype=np.float64)  # float("nan") and float(None) are NaN in an array
    return np.where(np.isfinite(array), array, np.nan)
