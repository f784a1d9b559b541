"""Paths in NumPy float64 and through MindSpore in float32, and the distance between them."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import numpy as np

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.measure import path_bounds
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.functions import Function
from ms_adam.lab.studies.trajectories.config import LinearFit, Place
from ms_adam.lab.studies.trajectories.counterparts import Counterpart
from ms_adam.lab.targets import mindspore_context

Build = Callable[[list], Any]  # returns the optimizer of a list of parameters
Told = Callable[[int], None]  # is told the number of steps done
_GRID = 301  # points along each axis


def follow(method: Any, gradient: Callable, start: Any, steps: int) -> np.ndarray:
    """Follows a method in float64.

    A path may run away to infinity; it is followed until all steps are made.

    Args:
        method: As `ms_adam.reference.Method`.
        gradient: Takes weights and the number of steps made; returns the gradient there.

    Returns:
        The weights before each step and after the last, shape (steps + 1, number of weights).
    """
    weights = np.array(start, dtype=np.float64)
    points = np.empty((steps + 1, *weights.shape))
    state = method.init(weights)
    lookahead = getattr(method, "lookahead", lambda w, _: w)
    with np.errstate(all="ignore"):
        for t in range(steps):
            points[t] = weights
            weights, state = method.step(weights, gradient(lookahead(weights, state), t), state)
            if np.shape(weights) != points.shape[1:]:
                raise ExperimentError(
                    f"{method!r}: step() must return weights of shape "
                    f"{points.shape[1:]}, but gave {np.shape(weights)}"
                )
    points[steps] = weights
    return points


class Problem:
    """What an optimizer of two weights minimizes, in `steps` steps from `start`.

    A problem has ``gradient(weights, t)`` and ``value(weights, t)`` of the step after t steps, in
    float64; after the last step, the value is that of all. ``mindspore(build, told)`` is given what
    makes the optimizer of a list of one float32 parameter, and tells each step; it returns the
    points, shape (steps + 1, 2), the values there, and the gradients, shape (steps, 2): those of
    the float32 tensors, in float64. ``more(points)`` is what a row says besides.
    """

    def values(self, points: np.ndarray) -> np.ndarray:
        """Returns the value before each step and after the last."""
        with np.errstate(all="ignore"):
            return np.array([self.value(w, t) for t, w in enumerate(points)], dtype=np.float64)

    def reference(self, method: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the points of a method in float64, and the values there."""
        points = follow(method, self.gradient, self.start, self.steps)
        return points, self.values(points)


@dataclasses.dataclass(frozen=True)
class Walk(Problem):
    """A function of the plane, and how many steps an optimizer makes on it."""

    place: Place
    function: Function
    steps: int

    @property
    def start(self) -> list[float]:
        return self.place.start

    def gradient(self, weights: np.ndarray, t: int) -> np.ndarray:
        return self.function.gradient(*weights)

    def value(self, weights: np.ndarray, t: int) -> float:
        return self.function.value(*weights)

    def mindspore(self, build: Build, told: Told) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gives it each gradient, rounded to float32, in PyNative mode."""
        import mindspore
        from mindspore import Parameter, Tensor

        points, gradients = np.empty((self.steps + 1, 2)), np.empty((self.steps, 2))
        mode = mindspore_context(mode=mindspore.PYNATIVE_MODE)
        with mode, np.errstate(all="ignore"):  # may overflow float32
            weights = Parameter(Tensor(np.array(self.start, np.float32)), name="weights")
            optimizer = build([weights])
            for t in range(self.steps):
                points[t] = weights.asnumpy()
                given = np.asarray(self.gradient(points[t], t), dtype=np.float32)
                optimizer((Tensor(given),))
                gradients[t] = given
                told(t + 1)
            points[-1] = weights.asnumpy()
        return points, self.values(points), gradients

    def more(self, points: np.ndarray) -> dict[str, Any]:
        low, high = np.array([self.place.x, self.place.y]).T
        outside = ~((points >= low) & (points <= high)).all(axis=1)
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


class Fit(Problem):
    """A linear model of two weights on mini-batches, mean squared error.

    Every array holds float32 numbers in float64, so that NumPy and MindSpore, which takes them in
    float32, get the same numbers.

    Attributes:
        batches: (inputs, targets) of each step, every epoch having every point once; the last entry
            is all points.
    """

    def __init__(self, config: LinearFit):
        random = np.random.default_rng([config.seed, 0])
        inputs = random.standard_normal((config.points, 2))
        noise = random.uniform(-config.noise, config.noise, config.points)
        everything = inputs, inputs @ np.array(config.weights) + noise
        everything = [array.astype(np.float32).astype(np.float64) for array in everything]
        batches = Batches(everything, config.batch_size, config.seed, keep_last=True)
        self.start, self._per_epoch = config.start, batches.per_epoch
        self.steps = config.epochs * batches.per_epoch
        self.batches = [*batches.steps(0, self.steps), tuple(everything)]

    def gradient(self, weights: np.ndarray, t: int) -> np.ndarray:
        inputs, targets = self.batches[t]
        return 2 * (inputs @ weights - targets) @ inputs / len(targets)

    def value(self, weights: np.ndarray, t: int = -1) -> float:
        inputs, targets = self.batches[t]
        return float(np.mean(np.square(inputs @ weights - targets)))

    def quadratics(self) -> np.ndarray:
        """Returns the loss of each entry of `batches` as a function of the weights.

        w A w - 2 b w + c, a row of A11, A12, A22, b1, b2 and c for each.
        """
        rows = []
        for inputs, targets in self.batches:
            a, b = inputs.T @ inputs / len(targets), targets @ inputs / len(targets)
            rows.append([a[0, 0], a[0, 1], a[1, 1], *b, np.mean(np.square(targets))])
        return np.array(rows)

    @property
    def least_loss(self) -> float:
        """The least error of all points that any weights have, by linear algebra."""
        return self.value(np.linalg.lstsq(*self.batches[-1], rcond=None)[0])

    def mindspore(self, build: Build, told: Told) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Trains `nn.Dense(2, 1)` without bias on `nn.MSELoss`, each step one compiled graph."""
        import mindspore
        from mindspore import Tensor, nn

        from ms_adam.lab.train import Step, TrainStep, train

        points, gradients = np.empty((self.steps + 1, 2)), np.empty((self.steps, 2))
        points[0], losses = np.float32(self.start), np.empty(self.steps + 1)
        with mindspore_context(mode=mindspore.GRAPH_MODE):
            first = Tensor(np.array([self.start], np.float32))
            model = nn.Dense(2, 1, weight_init=first, has_bias=False)
            optimizer = build([model.weight])

            def record(step: Step) -> None:
                points[step.number] = model.weight.asnumpy()[0]
                gradients[step.number - 1] = step.gradients[0].asnumpy()[0]
                losses[step.number - 1] = step.loss
                told(step.number)

            step = TrainStep(model, optimizer, nn.MSELoss(), with_gradients=True)
            batches = ((np.float32(x), np.float32(y)[:, None]) for x, y in self.batches[:-1])
            train(step, batches, [record])
        losses[-1] = self.value(points[-1])
        return points, losses, gradients

    def more(self, points: np.ndarray) -> dict[str, Any]:
        """The loss of all points before the first epoch and after each, and the least."""
        with np.errstate(all="ignore"):
            epochs = [self.value(w) for w in points[:: self._per_epoch]]
        return {
            "function": "linear fit",
            "outside_from": None,
            "epoch_values": plain(epochs),
            "least_value": self.least_loss,
        }


def plain(numbers: Any) -> Any:
    """Returns numbers for JSON, in which one that is not finite is null."""
    if np.ndim(numbers):
        return [plain(number) for number in numbers]
    return float(numbers) if np.isfinite(numbers) else None


def compare(
    counterpart: Counterpart, asked: Any, points: np.ndarray, gradients: np.ndarray
) -> dict[str, Any]:
    """Measures how far a MindSpore path is from float64 methods that are given its gradients.

    The counterpart made the path, and may not compute the method that a config asks for. The steps
    count as long as every number is finite.

    Returns:
        ``optimizer``, ``same_formula`` and ``differences`` of the counterpart; ``distance``, the
        largest of a weight to the formula that it computes; ``limit``, what float32 roundings
        explain at the last step; ``share_of_limit``, the largest of distance / limit in any step;
        ``within_limit``, whether that is at most 1; ``distance_to_method``, the largest to the
        formula that was asked for; and ``steps_compared``.
    """
    shadow, wanted = (
        replay(method, points[0], gradients) for method in (counterpart.computes, asked)
    )
    finite = np.isfinite(np.hstack([points, shadow, wanted])).all(axis=1)
    last = len(finite) if finite.all() else int(np.argmin(finite))
    points, shadow, wanted = points[:last], shadow[:last], wanted[:last]
    distances = np.abs(points - shadow).max(axis=1)
    # Before each step and after the last.
    weight = np.maximum.accumulate(np.abs(shadow).max(axis=1))
    changes = np.maximum.accumulate(np.abs(np.diff(shadow, axis=0)).max(axis=1))
    roundings = np.array([counterpart.roundings(t) for t in range(1, last)])
    limits = np.concatenate([[0.0], path_bounds(weight[1:], changes, roundings)])
    # The limit is 0 as long as a path has stayed at the origin, and at the start, which is shared.
    shares = np.where(distances > 0, np.inf, 0.0)
    share = float(np.divide(distances, limits, out=shares, where=limits > 0).max())
    return {
        "optimizer": counterpart.name,
        "same_formula": not counterpart.differences,
        "differences": counterpart.differences,
        "distance": float(distances.max()),
        "limit": float(limits[-1]),
        "share_of_limit": share,
        "within_limit": share <= 1,
        "distance_to_method": float(np.abs(points - wanted).max()),
        "steps_compared": last - 1,
    }


def replay(method: Any, start: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Returns the path of a method that is given these gradients, one a step."""
    return follow(method, lambda _, t: gradients[t], start, len(gradients))
