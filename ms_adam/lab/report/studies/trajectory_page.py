"""The page of paths that move: what trajectories.js draws, and the page around it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ms_adam.lab.problems.functions import FUNCTIONS
from ms_adam.lab.report import plots
from ms_adam.lab.report.html import template
from ms_adam.lab.studies.trajectories.following import plain
from ms_adam.lab.studies.trajectories.methods import METHODS
from ms_adam.lab.studies.trajectories.study import verdicts

_SCRIPTS = Path(__file__).parent
_THINNED = 5  # of the 301 grid points along an axis every fifth: 61, ends included
FEW = 100  # steps, up to which MindSpore's circles are shown at first; more hide the lines


def page(content: dict[str, Any], scenes: Sequence[dict[str, Any]]) -> str:
    """Returns the page, one file that needs no other file and no network.

    The scenes are from `of_function` or `of_fit`, one for each surface.
    """
    # Imported here: the pictures do not need it.
    from plotly.offline import get_plotlyjs

    longest = max(len(line["points"]) for scene in scenes for line in scene["lines"])
    return template("trajectories.html.j2").render(
        config=content["comparison"],
        environment=content["environment"],
        verdicts=verdicts(content),
        few=longest <= FEW + 1,
        data={"scenes": scenes},
        plotly=get_plotlyjs(),
        paths=(_SCRIPTS / "paths.js").read_text(encoding="utf-8"),
        script=(_SCRIPTS / "trajectories.js").read_text(encoding="utf-8"),
    )


def of_function(scene: Any, config: dict[str, Any], pairs: Sequence[list[dict]]) -> dict[str, Any]:
    """Returns a function of the plane, which a `trajectories.Scene` is, with its paths.

    `pairs` has of each optimizer its row and that of its MindSpore counterpart, if it has one.
    """
    place, thin = scene.place, slice(None, None, _THINNED)
    known = place["function"] if place["function"] in FUNCTIONS else None
    lines = []
    for entry, rows in zip(config["optimizers"], pairs):
        rate = place["learning_rates"].get(entry["name"])
        changes = {} if rate is None else {"learning_rate": rate}
        paths = [(row, (points_of(row), values_of(row))) for row in rows]
        lines.append(_line(entry, changes if known else None, paths))
    return {
        "name": scene.name,
        "title": _plain_formula(scene.title),
        "function": known,
        "axes": ["x", "y"],
        "ranges": [place["x"], place["y"]],
        "start": place["start"],
        "seen_from": place["seen_from"],
        "log": place["scale"] == "log",
        "least": scene.least if scene.least is not None else float(np.nanmin(scene.heights)),
        "height_label": scene.height_label,
        **_drawn(scene.x[thin], scene.y[thin], scene.drawn(scene.heights)[thin, thin], lines),
    }


def of_fit(config: dict[str, Any], quadratics: np.ndarray, pairs: Sequence[list[dict]]) -> dict:
    """Returns a linear fit: the loss of all points over the weights, and the paths on it.

    The quadratics are from `Fit.quadratics`, the pairs as for `of_function`.
    """
    fit = config["linear_fit"]
    corners = np.array([fit["start"], fit["weights"]])
    margin = 0.4 * (np.ptp(corners, axis=0).max() or 1.0)
    low, high = corners.min(axis=0) - margin, corners.max(axis=0) + margin
    x, y = (np.linspace(*limits, 61) for limits in zip(low, high))

    def loss(points: np.ndarray) -> np.ndarray:
        a11, a12, a22, b1, b2, c = quadratics[-1]
        w1, w2 = points[..., 0], points[..., 1]
        return a11 * w1**2 + 2 * a12 * w1 * w2 + a22 * w2**2 - 2 * (b1 * w1 + b2 * w2) + c

    def ends(row: dict) -> tuple[np.ndarray, np.ndarray]:
        points = points_of(row)
        return points, loss(points)

    lines = [
        _line(entry, {}, [(row, ends(row)) for row in rows])
        for entry, rows in zip(config["optimizers"], pairs)
    ]
    return {
        "name": "linear fit",
        "title": "mean squared error of all points over the two weights",
        "function": None,
        "axes": ["weight 1", "weight 2"],
        "batches": quadratics.tolist(),
        "ranges": [[float(a), float(b)] for a, b in zip(low, high)],
        "start": fit["start"],
        "seen_from": [48.0, -60.0],
        "log": False,
        "least": 0.0,
        "height_label": "loss",
        **_drawn(x, y, loss(np.stack(np.meshgrid(x, y), axis=-1)), lines),
    }


def _line(entry: dict, changes: Optional[dict], paths: Sequence[tuple]) -> dict[str, Any]:
    """Returns an optimizer's path, MindSpore's beside it, and its options if it can be recomputed.

    Args:
        entry: The optimizer in the config.
        changes: Options of this surface; None if the page cannot compute gradients on it.
        paths: Of each row, the row and its (points, values).
    """
    method = METHODS.get(entry["method"])
    options = None
    if method is not None and changes is not None:
        options = dataclasses.asdict(method(**{**entry["options"], **changes}))
    found = [
        {"name": row["optimizer"], "points": _short(points, 5), "values": _short(values, 5)}
        for row, (points, values) in paths
    ]
    ours, theirs = found[0], found[1] if len(found) > 1 else None
    return {**ours, "method": entry["method"], "options": options, "float32": theirs}


def _drawn(x: np.ndarray, y: np.ndarray, heights: np.ndarray, lines: list[dict]) -> dict:
    """Returns a surface, and its lines with the colours that they have in the pictures."""
    surface = {"x": _short(x, 4), "y": _short(y, 4), "heights": _short(heights, 4)}
    colours = itertools.cycle(plots.CYCLE)
    return {**surface, "lines": [{**line, "color": next(colours)} for line in lines]}


def points_of(row: dict) -> np.ndarray:
    """Returns the points of a row, from the start to after the last step."""
    return plots.floats([*row["points"], row["end"]])


def values_of(row: dict) -> np.ndarray:
    """Returns the values at these points."""
    return plots.floats([*row["values"], row["end_value"]])


def _plain_formula(text: str) -> str:
    """Returns a formula of mathtext, such as $0.2\\,x_1^2$, in letters: 0.2 x₁²."""
    text = re.sub(r"_(\d)", lambda digit: "₀₁₂₃"[int(digit[1])], text)
    text = re.sub(r"\^(\d)", lambda digit: "⁰¹²³"[int(digit[1])], text)
    text = text.replace("\\cos", " cos").replace("\\pi", "π")
    return text.replace("\\,", " ").replace("$", "").replace("  ", " ")


def _short(numbers: np.ndarray, digits: int) -> Any:
    """Returns numbers for JSON with so many digits, null if not finite: the page stays small."""
    if np.ndim(numbers):
        return [_short(number, digits) for number in numbers]
    return plain(float(f"{numbers:.{digits}g}"))
