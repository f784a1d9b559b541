"""The page of paths that move: what trajectories.js draws, and the page around it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_adam.lab.problems.functions import FUNCTIONS, Function
from ms_adam.lab.report import plots
from ms_adam.lab.report.html import template
from ms_adam.lab.studies.trajectories.following import plain
from ms_adam.lab.studies.trajectories.methods import METHODS
from ms_adam.lab.studies.trajectories.study import verdicts

_SCRIPTS = Path(__file__).parent
_SHOWN = 61  # points along an axis of the grid that the page draws
FEW = 100  # steps, up to which MindSpore's circles are shown at first; more hide the lines


class Scene:
    """A function as it is drawn, and the rows of ``results`` that lie on it.

    `name` is that of the rows, `place` its entry in the config, and `heights` has f at [row of y,
    column of x], NaN where f is not finite. `pairs` are those of `pairs_of`, and `lines` the row
    of each optimizer in the config.
    """

    def __init__(self, name: str, place: dict[str, Any], heights: np.ndarray, rows: Sequence[dict]):
        self.name, self.place, self.heights = name, place, heights
        self.pairs = pairs_of(rows)
        self.lines = [row for row, *_ in self.pairs]
        self.x, self.y = (np.linspace(*place[axis], len(heights)) for axis in "xy")
        self.function = FUNCTIONS.get(place["function"], Function("", np.add))
        formula = self.function.formula
        self.title = f"{self.name}: {formula}" if formula else self.name
        self.least = self.function.least  # None if not known, as that of a user's own function
        minima = np.array(self.function.minima).reshape(-1, 2)
        low, high = np.array([place["x"], place["y"]]).T
        self.minima = minima[((minima >= low) & (minima <= high)).all(axis=1)]  # that can be seen

    def drawn(self, values: np.ndarray) -> np.ndarray:
        """Returns values of f as heights of the picture."""
        if self.place["scale"] == "linear":
            return values
        least = self.least if self.least is not None else np.nanmin(self.heights)
        # 1 +: the least value has a height too. A rounding can take a value below the least.
        return np.log10(1 + np.maximum(values - least, 0))

    @property
    def height_label(self) -> str:
        """The words for a height of the picture."""
        if self.place["scale"] == "linear":
            return "f"
        return "log10(1 + f)" if self.least == 0 else "log10(1 + f - least f)"

    def lifted(self, row: dict) -> np.ndarray:
        """Returns a path as (x, y, height), cut where it first leaves the picture."""
        path = np.column_stack([points_of(row), self.drawn(values_of(row))])
        gone = [step for step in (row["outside_from"], row["not_finite_from"]) if step is not None]
        return np.where(np.arange(len(path))[:, None] < min(gone, default=len(path)), path, np.nan)


def page(content: dict[str, Any], scenes: Sequence[dict[str, Any]]) -> str:
    """Returns the page, one file that needs no other file and no network.

    The scenes are from `of_scene` or `of_fit`, one for each surface.
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


def of_scene(scene: Scene, config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Returns what trajectories.js draws of a scene.

    A line has an optimizer's path, MindSpore's beside it as ``float32``, the colour that it has in
    the pictures, and ``options`` if the page can compute it again.
    """
    place, thin = scene.place, slice(None, None, math.ceil(len(scene.heights) / _SHOWN))
    lines = []
    for entry, (row, *beside), color in zip(
        config["optimizers"], scene.pairs, itertools.cycle(plots.CYCLE)
    ):
        options, method = None, METHODS.get(entry["method"])
        if method is not None and (scene.function.text or "batches" in more):
            rate = place["learning_rates"].get(entry["name"])
            changes = {} if rate is None else {"learning_rate": rate}
            options = dataclasses.asdict(method(**{**entry["options"], **changes}))
        float32 = _path(*beside) if beside else None
        facts = {"method": entry["method"], "options": options, "float32": float32, "color": color}
        lines.append({**_path(row), **facts})
    return {
        "name": scene.name,
        "title": _plain_formula(scene.title),
        "function": scene.function.text,
        "axes": ["x", "y"],
        "ranges": [place["x"], place["y"]],
        "start": place["start"],
        "seen_from": place["seen_from"],
        "log": place["scale"] == "log",
        "least": scene.least if scene.least is not None else float(np.nanmin(scene.heights)),
        "height_label": scene.height_label,
        "x": _short(scene.x[thin], 4),
        "y": _short(scene.y[thin], 4),
        "heights": _short(scene.drawn(scene.heights)[thin, thin], 4),
        "lines": lines,
        **more,
    }


def of_fit(config: dict[str, Any], quadratics: np.ndarray, rows: Sequence[dict]) -> dict[str, Any]:
    """Returns the scene of a linear fit: the loss of all points over the weights, and the paths.

    The quadratics are from `Fit.quadratics`.
    """
    fit = config["linear_fit"]
    corners = np.array([fit["start"], fit["weights"]])
    margin = 0.4 * (np.ptp(corners, axis=0).max() or 1.0)
    low, high = corners.min(axis=0) - margin, corners.max(axis=0) + margin
    x, y = (np.linspace(*limits, _SHOWN) for limits in zip(low, high))

    def loss(points: np.ndarray) -> np.ndarray:
        a11, a12, a22, b1, b2, c = quadratics[-1]
        w1, w2 = points[..., 0], points[..., 1]
        return a11 * w1**2 + 2 * a12 * w1 * w2 + a22 * w2**2 - 2 * (b1 * w1 + b2 * w2) + c

    def on_surface(row: dict) -> dict:
        *values, end_value = loss(points_of(row))  # the row's own are of batches
        return {**row, "values": values, "end_value": end_value}

    place = {
        "function": "",
        "x": [float(low[0]), float(high[0])],
        "y": [float(low[1]), float(high[1])],
        "start": fit["start"],
        "seen_from": [48.0, -60.0],
        "scale": "linear",
        "learning_rates": {},
    }
    heights = loss(np.stack(np.meshgrid(x, y), axis=-1))
    return of_scene(
        Scene("linear fit", place, heights, [on_surface(row) for row in rows]),
        config,
        title="mean squared error of all points over the two weights",
        axes=["weight 1", "weight 2"],
        batches=quadratics.tolist(),
        height_label="loss",
    )


def _path(row: dict) -> dict[str, Any]:
    numbers = {"points": _short(points_of(row), 5), "values": _short(values_of(row), 5)}
    return {"name": row["optimizer"], **numbers}


def pairs_of(rows: Sequence[dict]) -> list[list[dict]]:
    """Returns each optimizer's row, and that of its MindSpore counterpart if it has one."""
    pairs: dict[str, list[dict]] = {}
    for row in rows:
        facts, name = row["mindspore"] or {}, row["optimizer"]
        if "distance" in facts:  # a counterpart's, whose name follows that of the optimizer
            name = name.removesuffix(f" ({facts['optimizer']})")
        pairs.setdefault(name, []).append(row)
    return list(pairs.values())


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
