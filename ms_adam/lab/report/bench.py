"""The two plots of a benchmark."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ms_adam.lab.bench.cases import BY_NUMBER, BY_SIZE
from ms_adam.lab.report.plots import STYLE, png

# Okabe & Ito 2008, as in plots; the limit is what there is to compare with, and grey.
_LOOKS = {
    "nn.Adam": ("#D55E00", "s"),
    "fused": ("#7fc1e8", "o"),
    "fused, flat state": ("#0072B2", "o"),
    "torch fused": ("#009E73", "^"),
    "memory limit": ("#8a8a8a", ""),
}


def cost_plot(results: list[dict], cases: list[str], along: str, title: str, label: str) -> bytes:
    """Time of a step against the number of parameters, or against their size.

    Args:
        results: the rows of `bench.json`.
        cases: the names of those to draw.
        along: "parameters", or "elements" for the elements of each parameter.
        title: of the plot.
        label: of its horizontal axis.

    Returns:
        A PNG.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axis = figure.subplots()
        for name, (colour, marker) in _LOOKS.items():
            rows = [row for row in results if row["contender"] == name and row["case"] in cases]
            if not rows:
                continue
            rows.sort(key=lambda row: row["elements"])
            x = [
                row["parameters"] if along == "parameters" else row["elements"] / row["parameters"]
                for row in rows
            ]
            # A step that is lost in what a call costs can come out at 0 or below.
            middle, low, high = (
                [max(row[key], 1e-3) for row in rows]
                for key in ("step_ms", "step_ms_10", "step_ms_90")
            )
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(
                x,
                middle,
                color=colour,
                marker=marker,
                markersize=5,
                label=name,
                linestyle="-" if marker else "--",
            )
        axis.set(
            title=title,
            xlabel=label,
            ylabel="a step, ms (median; band: 10-90%)",
            xscale="log",
            yscale="log",
        )
        axis.legend()
        return png(figure)


def write_plots(results: list[dict], out: Path) -> list[Path]:
    """Draws the cost against the number of parameters and against their size."""
    plots = {
        "by_number.png": (
            BY_NUMBER,
            "parameters",
            "Parameters of 1,000 elements",
            "number of parameters",
        ),
        "by_size.png": (BY_SIZE, "elements", "100 parameters", "elements of each parameter"),
    }
    paths = []
    for name, (cases, *words) in plots.items():
        paths.append(out / name)
        paths[-1].write_bytes(cost_plot(results, [case.name for case in cases], *words))
    return paths
