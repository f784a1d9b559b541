"""Paths of optimizers over functions of the plane: NumPy float64, and MindSpore beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from ms_adam.lab.loader import load_callable
from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.run.environment import environment
from ms_adam.lab.run.results import SCHEMA
from ms_adam.lab.run.study import Progress
from ms_adam.lab.studies.trajectories.callables import MindSporeOptimizer, method_at
from ms_adam.lab.studies.trajectories.comparison import REFERENCE, compare, follow, row
from ms_adam.lab.studies.trajectories.config import Place, Trajectories
from ms_adam.lab.studies.trajectories.counterparts import Counterpart, counterpart
from ms_adam.lab.studies.trajectories.functions import FUNCTIONS, Function
from ms_adam.lab.studies.trajectories.through_mindspore import device_target, walk

_GRID = 301  # points along each axis of a scene


@dataclasses.dataclass(frozen=True)
class Scene:
    """A function as it is drawn, and the rows of ``results`` that lie on it.

    Attributes:
        name: What files and rows call it.
        formula: In matplotlib's mathtext.
        x: The grid's places, shape (n,); `y` too.
        heights: f at [row of y, column of x]; NaN where f is not finite.
        minima: Where f is least, shape (m, 2), of those that the grid shows.
        least: f there, None if that is not known.
        scale: "linear" or "log".
        seen_from: In 3-D: degrees above the plane, and around the z axis from x.
        rows: Its rows of ``results``.
    """

    name: str
    formula: str
    x: np.ndarray
    y: np.ndarray
    heights: np.ndarray
    minima: np.ndarray
    least: Optional[float]
    scale: str
    seen_from: tuple[float, float]
    rows: list[dict[str, Any]]


def run(
    config: Trajectories, folder: Path, progress: Progress
) -> tuple[dict[str, Any], list[Scene]]:
    """Follows each optimizer over each function.

    Args:
        config: What to follow.
        folder: Where Python callables that the config names are looked for first.
        progress: Is called while it goes on.

    Returns:
        What ``trajectories.json`` holds, and a scene for each function. A row of ``results`` has
        ``function``, ``optimizer``, ``computed_by``, ``points`` (before each step, from the start
        on), ``values`` (f there), ``end`` and ``end_value`` (after the last step), ``outside_from``
        and ``not_finite_from`` (the first step before which the path is out of the picture, or is
        or has a value that is not a finite number; or null), and ``mindspore`` (see
        `comparison.compare`). A number that is not finite is null.

    Raises:
        ExperimentError: A callable is not there, or does not do what it must.
    """
    functions = [load_function(place, folder) for place in config.functions]
    plan = [
        (place, function, entry, method_at(entry, folder, place))
        for place, function in zip(config.functions, functions)
        for entry in config.optimizers
    ]
    total = sum(entry.steps for _, _, entry, _ in plan)
    used_mindspore = False
    rows: list[dict[str, Any]] = []
    done = 0
    for place, function, entry, method in plan:

        def told(steps: int, before: int = done) -> None:
            progress(config.name, "paths", before + steps, total)

        found = _paths(function, place, entry, method, config.mindspore, told)
        through_mindspore = any(row["computed_by"] != REFERENCE for row in found)
        used_mindspore = used_mindspore or through_mindspore
        if not through_mindspore:  # which tells after each step
            told(entry.steps)
        rows += found
        done += entry.steps
    content = {
        "schema": SCHEMA,
        "environment": environment(device_target() if used_mindspore else None),
        "comparison": config.model_dump(mode="json"),
        "results": rows,
    }
    scenes = [
        scene(place, function, [row for row in rows if row["function"] == place.label])
        for place, function in zip(config.functions, functions)
    ]
    return content, scenes


def load_function(place: Place, folder: Path) -> Function:
    """The function of a config, looked at once, at its start, in an array of three.

    Raises:
        UserError: There is none of that name, or it does not give what it must.
    """
    if ":" not in place.function:
        if place.function not in FUNCTIONS:
            raise ConfigError(
                f"there is no function '{place.function}'; there are "
                f"{', '.join(FUNCTIONS)}, and module:callable"
            )
        return FUNCTIONS[place.function]
    value = load_callable(place.function, [folder])
    slopes = load_callable(place.gradient, [folder]) if place.gradient else None
    function = Function(place.label, value, slopes)
    x, y = (np.full(3, coordinate, dtype=np.float64) for coordinate in place.start)
    try:
        values, gradients = np.asarray(value(x, y), dtype=np.float64), function.gradient(x, y)
    except Exception as error:  # the user's own code, which may raise anything
        raise ConfigError(
            f"'{place.function}': at three points at once, x = {x} and y = {y}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ConfigError(
            f"'{place.function}': at three points at once, x = {x} and y = {y}, it "
            f"must give three finite numbers, but gave {values}"
        )
    if gradients.shape != (2, 3):
        raise ConfigError(f"'{place.gradient}': must give (df/dx, df/dy), each of the shape of x")
    return function


def scene(place: Place, function: Function, rows: list[dict]) -> Scene:
    """What is drawn of a function."""
    x, y = np.linspace(*place.x, _GRID), np.linspace(*place.y, _GRID)
    with np.errstate(all="ignore"):
        heights = np.array(function.value(*np.meshgrid(x, y)), dtype=np.float64)
    heights[~np.isfinite(heights)] = np.nan
    minima = np.array(function.minima).reshape(-1, 2)
    shown = ~_outside(minima, place)
    return Scene(
        place.label,
        function.formula,
        x,
        y,
        heights,
        minima[shown],
        function.least,
        place.scale,
        tuple(place.seen_from),
        rows,
    )


def _paths(
    function: Function, place: Place, entry, method, with_mindspore: bool, told: Callable
) -> list[dict]:
    """The row of one optimizer on one function, and that of its counterpart if it has one."""

    def gradient(weights: np.ndarray) -> np.ndarray:
        return function.gradient(*weights)

    def made(optimizer: str, computed_by: str, points: np.ndarray, facts: Optional[dict]) -> dict:
        with np.errstate(all="ignore"):
            values = np.array([function.value(*point) for point in points], dtype=np.float64)
        outside = _outside(points, place)
        first = int(np.argmax(outside)) if outside.any() else None
        return row(place.label, optimizer, computed_by, points, values, facts, first)

    def through_mindspore(build: Callable) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):
            return walk(build, gradient, place.start, entry.steps, told)

    if isinstance(method, MindSporeOptimizer):
        points, _ = through_mindspore(method.build)
        return [made(entry.name, f"{method.name}, float32", points, None)]
    points = follow(method, gradient, place.start, entry.steps)
    other = counterpart(method) if with_mindspore else None
    if not isinstance(other, Counterpart):
        reason = None if other is None else {"optimizer": None, "reason": other.reason}
        return [made(entry.name, REFERENCE, points, reason)]
    theirs, gradients = through_mindspore(other.build)
    facts = compare(other, method, theirs, gradients)
    return [
        made(entry.name, REFERENCE, points, None),
        made(f"{entry.name} ({other.name})", f"{other.name}, float32", theirs, facts),
    ]


def _outside(points: np.ndarray, place: Place) -> np.ndarray:
    """Whether each point is out of the picture, or nowhere."""
    low, high = np.array([place.x, place.y]).T
    return ~((points >= low) & (points <= high)).all(axis=1)
