"""The page of ``ms-adam watch``, from ``watch.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure

from ms_adam.lab.report import plots
from ms_adam.lab.report.html import percent, power, read_results
from ms_adam.lab.report.html import write_page as write_html
from ms_adam.lab.report.plots import floats, panels, picture, positive, whole_numbers
from ms_adam.lab.report.tables import Column, Table, number, table
from ms_adam.lab.studies.watch.verdict import median, watching

_MEASURES = {
    "own": ("Its updates from its own formula", power),
    "paper": ("Its updates from Algorithm 1", power),
    "epsilon": ("Elements in which epsilon is at least the root beside it", percent),
    "epsilon_of_paper": ("Likewise in Algorithm 1", percent),
    "underflowed": ("Elements with a gradient and a second moment of 0", percent),
    "stalled": ("Second moments whose change rounding swallowed", percent),
}
_MEASURES_NOTE = (
    "Each step that was looked at is made again in float64 from the same weights, moments and "
    "gradients. From a formula: the norm of the difference of the updates, beyond the rounding of "
    "the weights, over the norm of the formula's updates. Of large tensors up to 4,096 elements "
    "are looked at."
)
_PARAMETERS_NOTE = (
    "Norms and the ratio of the update's norm to the weight's: median over the steps that were "
    "looked at, the ratio also at most. Those of large tensors are estimated from some elements."
)


def write_page(folder: Path) -> Path:
    """Writes the page of a watched run, whose ``watch.json`` is in a folder; returns its path."""
    content = read_results(folder, "watch.json")
    (entry,) = content["results"]
    return write_html(
        folder,
        "watch.html.j2",
        environment=content["environment"],
        entry=entry,
        watching=watching(entry["run"]),
        optimizers=[{**one, **blocks(one)} for one in entry["optimizers"]],
    )


def blocks(one: dict[str, Any]) -> dict[str, Any]:
    """Returns the facts, tables and curves of an optimizer."""
    return {
        "facts": facts(one),
        "measures": measures_table(one) if one["formula"] else None,
        "cost_table": cost_table(one["cost"]),
        "parameter_table": parameter_table(one["parameters"]),
        "curves": curves(one) if len(one["series"]["call"]) > 1 else None,
    }


def facts(one: dict[str, Any]) -> dict[str, str]:
    """Returns what an optimizer is, in words by title."""
    identified = one.get("identified") or {}
    skipped = one["skipped"]
    arguments = ", ".join(f"{name}={value!r}" for name, value in one["given"].items())
    found = {
        "made at": one["at"][0],
        "arguments": arguments or "those of the class",
        "numbers it has": ", ".join(f"{k} {v:.6g}" for k, v in one["numbers"].items()),
        "computes here": _computes(one),
        "apart from the script": identified.get("formula"),
        "its page prints": one["printed"],
        "gradients": {
            "given": "those that it was called with",
            "moments": "inferred from its first moment: a compiled step keeps its own, and "
            "whatever clips or averages them within an optimizer changes them",
        }.get(one["gradients"]),
        "calls": f"{one['calls']:,}, {one['looks']:,} of them looked at",
        "without an update": f"{skipped['without']:,} of {skipped['calls']:,} calls",
        "learning rate": _range(one["rates"]),
        "weight decay": _range(one["decays"]),
        "moments": ", ".join(one["moments"]) or "none that are known",
    }
    return {title: words for title, words in found.items() if words}


def _computes(one):
    if not one["formula"]:
        return "nothing that was judged"
    alike = f"; as well as {' or '.join(one['alike'])}" if one["alike"] else ""
    return one["formula"] + alike


def _range(ends):
    if ends is None:
        return None
    low, high = (f"{float(end):.4g}" for end in ends)
    return low if low == high else f"{low} to {high}"


def measures_table(one: dict[str, Any]) -> Table:
    """Returns the distances and shares of an optimizer."""
    rows = [(*_MEASURES[key], one[key]) for key in _MEASURES if one[key] is not None]
    columns = (
        Column("Measured", lambda row: row[0]),
        number("Median", lambda row: row[1](row[2]["median"])),
        number("Largest", lambda row: row[1](row[2]["most"])),
        number("in call", lambda row: row[2]["call"]),
    )
    return table(columns, rows, _MEASURES_NOTE)


def cost_table(cost: dict[str, Any]) -> Optional[Table]:
    """Returns the time of a step and of its parts; None if no time is known."""
    called = cost["called"]
    rows = [
        ("A step of the script, from call to call", cost["step"]),
        ("The optimizer in it" if called else "The compiled graph in it", cost["call"]),
        ("Between gradients and optimizer", cost["tail"]),
        *(
            (f"Alone, on these shapes: {name}", seconds)
            for name, seconds in cost.get("alone", {}).items()
        ),
    ]
    rows = [row for row in rows if row[1] is not None]
    if not rows:
        return None
    step = cost["step"]
    columns = (
        Column("Time", lambda row: row[0]),
        number("ms", lambda row: f"{1e3 * row[1]:.2f}"),
        number("of a step", lambda row: f"{row[1] / step:.0%}" if step else None),
    )
    note = (
        "Medians of steps that were looked at, without the first, which compiles. Alone: timed "
        "afterwards as ms-adam bench does, with gradients that are there already."
    )
    return table(columns, rows, note)


def parameter_table(rows: Sequence[dict]) -> Table:
    """Returns the norms of each parameter."""

    def most(row: dict) -> Optional[float]:
        return max((float(one) for one in row["ratio"] if one is not None), default=None)

    columns = (
        Column("Parameter", "name", None, "long"),
        Column("Shape", lambda row: " × ".join(map(str, row["shape"])) or "scalar", None, "name"),
        Column("dtype", "dtype"),
        number("Gradient", lambda row: median(row["gradient"]), power),
        number("Weight", lambda row: median(row["weight"]), power),
        number("Update / weight", lambda row: median(row["ratio"]), power),
        number("at most", most, power),
    )
    return table(columns, rows, _PARAMETERS_NOTE)


@picture
def curves(one: dict[str, Any]) -> Figure:
    """Draws distances, shares, norms and rates over the calls that were looked at."""
    series = one["series"]
    x = np.array(series["call"])
    figure, axes = panels(2, 3, (11, 6.2))
    (distance, shares, gradient), (ratio, rate, seconds) = axes
    for axis, key, words, colour in (
        (distance, "paper", "from Algorithm 1", plots.VERMILION),
        (distance, "own", "from its own formula", plots.BLUE),
        (shares, "epsilon", "epsilon decides", plots.ORANGE),
        (shares, "underflowed", "underflowed", plots.PURPLE),
        (shares, "stalled", "stalled", plots.GREEN),
    ):
        values = 100 * floats(series[key]) if axis is shares else positive(series[key])
        axis.plot(x, values, color=colour, marker=".", label=words)
        axis.legend(fontsize=8)
    _band(gradient, x, [row["gradient"] for row in one["parameters"]], plots.SKY)
    _band(ratio, x, [row["ratio"] for row in one["parameters"]], plots.GREEN)
    low, high = floats(series["rate"]).T
    rate.fill_between(x, low, high, color=plots.BLACK, alpha=0.2)
    rate.plot(x, high, color=plots.BLACK)
    seconds.plot(x, 1e3 * floats(series["seconds"]), color=plots.GREY, marker=".")
    distance.set(title="Distance of the updates", yscale="log")
    shares.set(title="Share of elements, %", ylim=(-3, 103))
    gradient.set(title="Gradient norm, by parameter", yscale="log")
    ratio.set(title="Update / weight, by parameter", yscale="log")
    rate.set(title="Learning rate")
    seconds.set(title="Time of a call, ms", yscale="log")
    for axis in axes.flat:
        axis.set(xlabel="call")
    whole_numbers(*axes.flat)
    return figure


def _band(axis, x, rows, colour):
    """Draws the median over parameters in a band from the least to the largest."""
    values = np.array([positive(row) for row in rows])
    known = np.isfinite(values).any(axis=0)
    if not known.any():
        return
    values, x = values[:, known], x[known]
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    axis.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
    axis.plot(x, np.nanmedian(values, axis=0), color=colour, marker=".")
