"""The two plots of a benchmark: the cost of a step by number and by size of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ms_adam.lab.bench.cases import BY_NUMBER, BY_SIZE
from ms_adam.lab.report import plots

_LOOKS = {
    "nn.Adam": (plots.VERMILION, "s"),
    "fused": (plots.PALE_BLUE, "o"),
    "fused, flat state": (plots.BLUE, "o"),
    "torch fused": (plots.GREEN, "^"),
    "memory limit": (plots.GREY, ""),  # only there to compare with
}
_PLOTS = {
    "by_number.png": (
        [case.name for case in BY_NUMBER],
        lambda row: row["parameters"],
        "Parameters of 1,000 elements",
        "number of parameters",
    ),
    "by_size.png": (
        [case.name for case in BY_SIZE],
        lambda row: row["elements"] / row["parameters"],
        "100 parameters",
        "elements of each parameter",
    ),
}


def write_plots(results: Sequence[dict], out: Path) -> list[Path]:
    """Draws the rows of ``bench.json`` by number and by size of parameters; returns the paths."""
    for name, (cases, *along) in _PLOTS.items():
        rows = [row for row in results if row["case"] in cases]
        (out / name).write_bytes(cost_plot(rows, *along))
    return [out / name for name in _PLOTS]


@plots.picture
def cost_plot(results: Sequence[dict], x_of, title: str, label: str) -> Figure:
    """Draws the time of a step against a number of each row, which `x_of` takes from it."""
    figure, ((axis,),) = plots.panels(1, 1, (6.4, 4.2))
    for name, (colour, marker) in _LOOKS.items():
        rows = [row for row in results if row["contender"] == name]
        if not rows:
            continue
        rows.sort(key=lambda row: row["elements"])
        x = [x_of(row) for row in rows]
        # The time of a step that is small beside that of a call can come out at 0 or below.
        middle, low, high = (
            [max(row[key], 1e-3) for row in rows] for key in ("step_ms", "step_ms_10", "step_ms_90")
        )
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        style = "-" if marker else "--"
        axis.plot(x, middle, style, color=colour, marker=marker, markersize=5, label=name)
    axis.set(title=title, xlabel=label, ylabel="a step, ms (median; band: 10-90%)")
    axis.set(xscale="log", yscale="log")
    axis.legend()
    return figure
