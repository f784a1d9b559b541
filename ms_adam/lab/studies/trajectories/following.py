"""Paths in NumPy float64 and through MindSpore in float32, and the distance between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Callable

import numpy as np

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.studies.trajectories.counterparts import ROUNDING, Counterpart

Build = Callable[[list], Any]  # returns the optimizer of a list of parameters


def follow(method: Any, gradient: Callable, start: Any, steps: int) -> np.ndarray:
    """Follows a method in float64.

    A path may run away to infinity; it is followed until all steps are made.

    Args:
        method: As `ms_adam.reference.Method`.
        gradient: Takes a float64 array, returns the gradient there.
        start: The first weights.
        steps: Number of steps.

    Returns:
        The weights before each step and after the last: float64, shape (steps + 1, number of
        weights).
    """
    weights = np.array(start, dtype=np.float64)
    points = np.empty((steps + 1, *weights.shape))
    state = method.init(weights)
    lookahead = getattr(method, "lookahead", lambda w, _: w)
    with np.errstate(all="ignore"):
        for t in range(steps):
            points[t] = weights
            weights, state = method.step(weights, gradient(lookahead(weights, state)), state)
            if np.shape(weights) != points.shape[1:]:
                raise ExperimentError(
                    f"{method!r}: step() must return weights of shape "
                    f"{points.shape[1:]}, but gave {np.shape(weights)}"
                )
    points[steps] = weights
    return points


def walk(
    build: Build, gradient: Callable, start: Any, steps: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Follows a MindSpore optimizer over a function of the plane.

    Args:
        build: Is given one parameter of shape (2,), float32.
        gradient: Takes a float64 array of shape (2,), returns the gradient there, which is rounded
            to float32.
        start: The first weights; they are rounded to float32.
        steps: Number of updates.
        progress: Is called with the number of steps done.

    Returns:
        The weights before each step and after the last, shape (steps + 1, 2), and the gradients,
        shape (steps, 2): the values of the float32 tensors, in float64.
    """
    import mindspore
    from mindspore import Parameter, Tensor

    points, gradients = np.empty((steps + 1, 2)), np.empty((steps, 2))
    with _mode(mindspore.PYNATIVE_MODE), np.errstate(all="ignore"):  # may overflow float32
        weights = Parameter(Tensor(np.array(start, np.float32)), name="weights")
        optimizer = build([weights])
        for t in range(steps):
            points[t] = weights.asnumpy()
            given = np.asarray(gradient(points[t]), dtype=np.float32)
            optimizer((Tensor(given),))
            gradients[t] = given
            progress(t + 1)
        points[steps] = weights.asnumpy()
    return points, gradients


def fit(
    build: Build, batches: Iterator, start: Any, steps: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trains `nn.Dense(2, 1)` without bias on `nn.MSELoss`, each step one compiled graph.

    Args:
        build: As for `walk`; the parameter has shape (1, 2).
        batches: The (inputs, targets) of each step: arrays of shapes (n, 2) and (n,).
        start: The first weights.
        steps: Number of batches.
        progress: Is called with the number of steps done.

    Returns:
        Points and gradients as those of `walk`, and the losses, shape (steps,), before each step.
    """
    import mindspore
    from mindspore import Tensor, nn

    from ms_adam.lab.train import Step, TrainStep, train

    points, gradients = np.empty((steps + 1, 2)), np.empty((steps, 2))
    points[0], losses = np.float32(start), np.empty(steps)
    with _mode(mindspore.GRAPH_MODE):
        first = Tensor(np.array([start], np.float32))
        model = nn.Dense(2, 1, weight_init=first, has_bias=False)
        optimizer = build([model.weight])

        def record(step: Step) -> None:
            points[step.number] = model.weight.asnumpy()[0]
            gradients[step.number - 1] = step.gradients[0].asnumpy()[0]
            losses[step.number - 1] = step.loss
            progress(step.number)

        train(
            TrainStep(model, optimizer, nn.MSELoss(), with_gradients=True),
            ((np.float32(inputs), np.float32(targets)[:, None]) for inputs, targets in batches),
            [record],
        )
    return points, gradients, losses


@contextlib.contextmanager
def _mode(mode: int) -> Iterator[None]:
    """Sets MindSpore's mode, which is one of the whole process, and puts the old one back."""
    import mindspore

    before = mindspore.get_context("mode")
    mindspore.set_context(mode=mode)
    try:
        yield
    finally:
        mindspore.set_context(mode=before)


def compare(
    counterpart: Counterpart, asked: Any, points: np.ndarray, gradients: np.ndarray
) -> dict[str, Any]:
    """Measures how far a MindSpore path is from float64 methods that are given its gradients.

    The steps count as long as every number is finite.

    Args:
        counterpart: The optimizer that made the path.
        asked: The method that a config asks for, which it may not compute.
        points: The path, shape (steps + 1, 2).
        gradients: The gradients that it was given, shape (steps, 2).

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
    limits = rounding_limits(counterpart, shadow)
    share = float((distances[1:] / limits[1:]).max()) if last > 1 else 0.0  # the start is shared
    return {
        "optimizer": counterpart.name,
        "same_formula": counterpart.same_formula,
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
    given = iter(gradients)
    return follow(method, lambda _: next(given), start, len(gradients))


def rounding_limits(counterpart: Counterpart, shadow: np.ndarray) -> np.ndarray:
    """Returns the bound at the top of `counterparts`, before each step and after the last."""
    steps = len(shadow) - 1
    weight = np.maximum.accumulate(np.abs(shadow).max(axis=1))
    changes = np.maximum.accumulate(np.abs(np.diff(shadow, axis=0)).max(axis=1))
    roundings = np.array([counterpart.roundings(t) for t in range(1, steps + 1)])
    each = ROUNDING * (weight[1:] + roundings * changes)
    return np.concatenate([[0.0], np.cumsum(each)])
