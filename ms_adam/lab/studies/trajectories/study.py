"""The study of paths: each optimizer in NumPy float64, and MindSpore's beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from ms_adam.lab.claims import HELD, NOT_HELD, Verdict, short
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.functions import FUNCTIONS, Function
from ms_adam.lab.run.config import ConfigError, refuse_equal_names
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Session, Study
from ms_adam.lab.studies.trajectories import following
from ms_adam.lab.studies.trajectories.config import Comparison, LinearFit, Place
from ms_adam.lab.studies.trajectories.counterparts import Counterpart, counterpart
from ms_adam.lab.studies.trajectories.methods import MindSporeOptimizer, method_at
from ms_adam.lab.targets import load_callable

REFERENCE = "NumPy float64"
RESULTS = "trajectories.json"
HEIGHTS = "heights.npz"  # of each function by its name: f at [row of y, column of x]
_GRID = 301  # points along each axis

Told = Callable[[int], None]  # is told the number of steps done


def run(configs: Sequence[Comparison], session: Session) -> dict[str, Any]:
    """Follows the optimizers of each config.

    One config writes ``trajectories.json`` and ``heights.npz`` into the session's folder, several
    into folders of their names in it.

    Returns:
        The content of ``trajectories.json``; of several, with the rows of all.
    """
    refuse_equal_names(configs)
    plans = [_plan(config) for config in configs]  # before anything runs: configs may be refused
    contents = []
    for config, plan in zip(configs, plans):
        folder = session.out if len(configs) == 1 else session.out / config.name
        folder.mkdir(parents=True, exist_ok=True)
        content = _follow(config, plan, session.progress)
        for row in content["results"]:
            for line in _remarks(row):
                session.tell(line)
        for pattern in ("*_contours.png", "*_values.png", "*_losses.png", "*_3d.png", "*_3d.gif"):
            for old in folder.glob(config.name + pattern):  # would show other paths
                old.unlink()
        walks = {walk.place.label: walk for walk, *_ in plan if isinstance(walk, Walk)}
        if walks:
            heights = {name: walk.heights() for name, walk in walks.items()}
            np.savez_compressed(folder / HEIGHTS, **heights)
        write_json(folder / RESULTS, content)
        if config.figure and config.figure.animation:
            frames = len(config.functions) * config.figure.animation.frames
            session.tell(f"{config.name}: {frames} frames of animations are drawn last")
        contents.append(content)
    rows = [row for content in contents for row in content["results"]]
    return contents[0] if len(contents) == 1 else {**contents[0], "results": rows}


def folders(out: Path) -> list[Path]:
    """Returns the folders below `out` that a run wrote its results into."""
    return [path.parent for path in sorted([*out.glob(RESULTS), *out.glob(f"*/{RESULTS}")])]


def verdicts(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Judges each MindSpore optimizer, where it is nearest to its limit."""
    worst: dict[str, dict[str, Any]] = {}
    for row in content["results"]:
        if "distance" in (row["mindspore"] or {}):
            before = worst.setdefault(row["optimizer"], row)
            if row["mindspore"]["share_of_limit"] > before["mindspore"]["share_of_limit"]:
                worst[row["optimizer"]] = row
    return [_verdict(row).as_dict() for row in worst.values()]


def _verdict(row: dict[str, Any]) -> Verdict:
    facts = row["mindspore"]
    asked = f"; to the config's formula {short(facts['distance_to_method'])}"
    if facts["differences"]:
        asked += f": {facts['differences']}"
    return Verdict(
        f"{row['optimizer']} follows its own formula on {row['function']}",
        HELD if facts["within_limit"] else NOT_HELD,
        short(facts["distance"]) + asked,
        short(facts["limit"]),
        "float32 rounding explains this much, given the gradients of the path; of all functions, "
        "this is where it is nearest to the limit.",
    )


def _remarks(row: dict[str, Any]) -> Iterator[str]:
    where = f"{row['function']}, {row['optimizer']}"
    if row["not_finite_from"] is not None:
        yield f"{where}: diverges; not finite from step {row['not_finite_from']}, null in the JSON"
    if "reason" in (row["mindspore"] or {}):
        yield f"{where}: MindSpore has no counterpart: {row['mindspore']['reason']}"


@dataclasses.dataclass(frozen=True)
class Walk:
    """A function of the plane, and how many steps an optimizer makes on it."""

    place: Place
    function: Function
    steps: int

    def reference(self, method: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the points of a method in float64, and f there."""
        points = following.follow(method, self._gradient, self.place.start, self.steps)
        return points, self._values(points)

    def mindspore(self, build: following.Build, told: Told) -> tuple[np.ndarray, ...]:
        """Returns the points of a MindSpore optimizer, f there, and the gradients."""
        points, gradients = following.walk(
            build, self._gradient, self.place.start, self.steps, told
        )
        return points, self._values(points), gradients

    def more(self, points: np.ndarray) -> dict[str, Any]:
        """Returns what a row says besides."""
        outside = ~_seen(points, self.place)
        return {
            "function": self.place.label,
            "outside_from": int(np.argmax(outside)) if outside.any() else None,
        }

    def heights(self) -> np.ndarray:
        """Returns f on a grid, NaN where it is not finite."""
        x, y = (np.linspace(*limits, _GRID) for limits in (self.place.x, self.place.y))
        with np.errstate(all="ignore"):
            heights = np.array(self.function.value(*np.meshgrid(x, y)), dtype=np.float64)
        return np.where(np.isfinite(heights), heights, np.nan)

    def _gradient(self, weights: np.ndarray) -> np.ndarray:
        return self.function.gradient(*weights)

    def _values(self, points: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.array([self.function.value(*point) for point in points], dtype=np.float64)


def _seen(points: np.ndarray, place: Place) -> np.ndarray:
    """Whether each point is in the picture."""
    low, high = np.array([place.x, place.y]).T
    return ((points >= low) & (points <= high)).all(axis=1)


class Fit:
    """A linear model of two weights on mini-batches.

    Every array holds float32 numbers in float64, so that NumPy and MindSpore, which takes them in
    float32, get the same numbers.
    """

    def __init__(self, config: LinearFit):
        self.config, self.steps = config, config.steps
        random = np.random.default_rng([config.seed, 0])
        inputs = random.standard_normal((config.points, 2))
        noise = random.uniform(-config.noise, config.noise, config.points)
        targets = inputs @ np.array(config.weights) + noise
        self.inputs, self.targets = (
            array.astype(np.float32).astype(np.float64) for array in (inputs, targets)
        )

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (inputs, targets) of each step: every epoch has every point once."""
        of = (self.inputs, self.targets)
        batches = Batches(of, self.config.batch_size, self.config.seed, keep_last=True)
        return batches.steps(0, self.steps)

    def loss(self, weights: np.ndarray) -> float:
        """Returns the mean squared error of all points."""
        return mean_squared_error(weights, self.inputs, self.targets)

    @property
    def least_loss(self) -> float:
        """The least error that any weights have, by linear algebra."""
        return self.loss(np.linalg.lstsq(self.inputs, self.targets, rcond=None)[0])

    def reference(self, method: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the weights of a method in float64, and each batch's loss, then that of all."""
        given = self.batches()
        points = following.follow(
            method, lambda w: error_gradient(w, *next(given)), self.config.start, self.steps
        )
        with np.errstate(all="ignore"):
            losses = [mean_squared_error(w, *batch) for w, batch in zip(points, self.batches())]
            return points, np.array([*losses, self.loss(points[-1])])

    def mindspore(self, build: following.Build, told: Told) -> tuple[np.ndarray, ...]:
        """Returns the weights of a MindSpore optimizer, its losses, and the gradients."""
        points, gradients, losses = following.fit(
            build, self.batches(), self.config.start, self.steps, told
        )
        return points, np.append(losses, self.loss(points[-1])), gradients

    def more(self, points: np.ndarray) -> dict[str, Any]:
        """Returns what a row says besides: the loss of all points after each epoch."""
        with np.errstate(all="ignore"):
            epochs = [self.loss(w) for w in points[:: self.steps // self.config.epochs]]
        return {
            "function": "linear fit",
            "outside_from": None,
            "epoch_values": plain(epochs),
            "least_value": self.least_loss,
        }


def mean_squared_error(weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> float:
    """Returns the mean over points of (w . x - y)^2."""
    return float(np.mean(np.square(inputs @ weights - targets)))


def error_gradient(weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns 2 (w . x - y) x, the mean over points."""
    return 2 * (inputs @ weights - targets) @ inputs / len(targets)


def _plan(config: Comparison) -> list[tuple]:
    """Returns the problem, the optimizer's name and its method of each path.

    Raises:
        UserError: There is no such function or method, or it does not do what it must.
    """
    if config.linear_fit:
        fit = Fit(config.linear_fit)
        return [(fit, e.name, method_at(e, config.folder)) for e in config.optimizers]
    functions = [load_function(place, config.folder) for place in config.functions]
    return [
        (Walk(place, function, e.steps), e.name, method_at(e, config.folder, place))
        for place, function in zip(config.functions, functions)
        for e in config.optimizers
    ]


def _follow(config: Comparison, plan: list[tuple], progress: Callable) -> dict[str, Any]:
    """Follows all optimizers of a config.

    Returns:
        The content of ``trajectories.json``. A row of ``results`` has ``function``, ``optimizer``,
        ``computed_by``, ``points`` (before each step, from the start on), ``values`` (f there),
        ``end`` and ``end_value`` (after the last step), ``outside_from`` and ``not_finite_from``
        (the first step before which the path is out of the picture, or is or has a value that is
        not a finite number; or null), and ``mindspore`` (see `following.compare`). In a linear
        fit, ``points`` are the weights and ``values`` the losses of the batches; besides,
        ``epoch_values`` are the losses of all points before the first epoch and after each, and
        ``least_value`` is the least loss of all points. A number that is not finite is null.
    """
    total = sum(problem.steps for problem, *_ in plan)
    words = "linear fit" if config.linear_fit else "paths"
    rows: list[dict[str, Any]] = []
    done = 0
    for problem, name, method in plan:

        def told(steps: int, before: int = done) -> None:
            progress(config.name, words, before + steps, total)

        found = _rows(problem, name, method, config.mindspore, told)
        if all(row["computed_by"] == REFERENCE for row in found):  # which tells nothing
            told(problem.steps)
        rows += found
        done += problem.steps
    used_mindspore = any(row["computed_by"] != REFERENCE for row in rows)
    targets = [_device_target()] if used_mindspore else []
    return {**results(rows, targets), "comparison": config.described()}


def _rows(problem: Any, name: str, method: Any, with_mindspore: bool, told: Told) -> list[dict]:
    """Returns the row of one optimizer, and that of its counterpart if it has one."""
    if isinstance(method, MindSporeOptimizer):
        points, values, _ = problem.mindspore(method.build, told)
        return [_row(problem, name, f"{method.name}, float32", points, values)]
    points, values = problem.reference(method)
    other = counterpart(method) if with_mindspore else None
    if not isinstance(other, Counterpart):
        reason = None if other is None else {"optimizer": None, "reason": other.reason}
        return [_row(problem, name, REFERENCE, points, values, reason)]
    ours = _row(problem, name, REFERENCE, points, values)
    points, values, gradients = problem.mindspore(other.build, told)
    facts = following.compare(other, method, points, gradients)
    by = f"{other.name}, float32"
    return [ours, _row(problem, f"{name} ({other.name})", by, points, values, facts)]


def _row(
    problem: Any,
    optimizer: str,
    computed_by: str,
    points: np.ndarray,
    values: np.ndarray,
    mindspore: Optional[dict] = None,
) -> dict[str, Any]:
    """Returns a row of ``results``; points and values go from the start to after the last step."""
    finite = np.isfinite(points).all(axis=1) & np.isfinite(values)
    return {
        **problem.more(points),
        "optimizer": optimizer,
        "computed_by": computed_by,
        "points": plain(points[:-1]),
        "values": plain(values[:-1]),
        "end": plain(points[-1]),
        "end_value": plain(values[-1]),
        "not_finite_from": None if finite.all() else int(np.argmin(finite)),
        "mindspore": mindspore,
    }


def plain(numbers: Any) -> Any:
    """Returns numbers for JSON, in which one that is not finite is null."""
    if np.ndim(numbers):
        return [plain(number) for number in numbers]
    return float(numbers) if np.isfinite(numbers) else None


def _device_target() -> str:
    import mindspore

    return mindspore.get_context("device_target")


def load_function(place: Place, folder: Path) -> Function:
    """Loads the function of a config, and tries it once, at its start, in an array of three.

    Raises:
        UserError: There is none of that name, or it does not return what it must.
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
    called = f"'{place.function}': at three points at once, x = {x} and y = {y}"
    try:
        values, gradients = np.asarray(value(x, y), dtype=np.float64), function.gradient(x, y)
    except Exception as error:  # the user's own code, which may raise anything
        raise ConfigError(f"{called}: {type(error).__name__}: {error}") from error
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ConfigError(f"{called}, it must give three finite numbers, but gave {values}")
    if gradients.shape != (2, 3):
        raise ConfigError(f"'{place.gradient}': must give (df/dx, df/dy), each of the shape of x")
    return function


STUDY = Study(
    name="trajectories",
    config=Comparison,
    run=run,
    page="ms_adam.lab.report.studies.trajectories:write_page",
    verdicts=verdicts,
)
