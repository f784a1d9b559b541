"""One path in float64, how far MindSpore's is from it, and the row that says so."""

from __future__ import annotations

from typing import Any, Callable, Optional

import numpy as np

from ms_adam.lab.run import ExperimentError
from ms_adam.lab.studies.trajectories.counterparts import ROUNDING, Counterpart

REFERENCE = "NumPy float64"


def follow(method, gradient: Callable, start, steps: int) -> np.ndarray:
    """The weights before each step and after the last, in float64.

    A path may run away to infinity; it is followed until the steps are made.

    Args:
        method: As `ms_adam.reference.Method`.
        gradient: Of a float64 array, the gradient there.
        start: The first weights.
        steps: How many.

    Returns:
        A float64 array of shape (steps + 1, number of weights).
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


def compare(
    counterpart: Counterpart, asked, points: np.ndarray, gradients: np.ndarray
) -> dict[str, Any]:
    """How far a MindSpore path is from float64 methods that are given the same gradients.

    The steps count as long as every number is finite.

    Args:
        counterpart: What made the path.
        asked: The method that a config asks for, which it may not compute.
        points: The path, shape (steps + 1, 2).
        gradients: What it was given, shape (steps, 2).

    Returns:
        ``optimizer``, ``same_formula`` and ``differences`` of the counterpart; ``distance``, the
        largest of a weight to the formula that it computes, ``limit``, what float32 roundings
        explain at the last step, ``share_of_limit``, the largest of distance / limit in any step,
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


def replay(method, start: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """The path of a method that is given these gradients, one a step."""
    given = iter(gradients)
    return follow(method, lambda _: next(given), start, len(gradients))


def rounding_limits(counterpart: Counterpart, shadow: np.ndarray) -> np.ndarray:
    """The bound at the top of `counterparts`, before each step and after the last."""
    steps = len(shadow) - 1
    weight = np.maximum.accumulate(np.abs(shadow).max(axis=1))
    changes = np.maximum.accumulate(np.abs(np.diff(shadow, axis=0)).max(axis=1))
    roundings = np.array([counterpart.roundings(t) for t in range(1, steps + 1)])
    each = ROUNDING * (weight[1:] + roundings * changes)
    return np.concatenate([[0.0], np.cumsum(each)])


def row(
    function: str,
    optimizer: str,
    computed_by: str,
    points: np.ndarray,
    values: np.ndarray,
    mindspore: Optional[dict] = None,
    outside_from: Optional[int] = None,
) -> dict[str, Any]:
    """A row of ``results``; points and values go from the start to after the last step."""
    finite = np.isfinite(points).all(axis=1) & np.isfinite(values)
    return {
        "function": function,
        "optimizer": optimizer,
        "computed_by": computed_by,
        "points": plain(points[:-1]),
        "values": plain(values[:-1]),
        "end": plain(points[-1]),
        "end_value": plain(values[-1]),
        "outside_from": outside_from,
        "not_finite_from": None if finite.all() else int(np.argmin(finite)),
        "mindspore": mindspore,
    }


def plain(numbers):
    """Numbers for JSON, which has none that is not finite: null."""
    if np.ndim(numbers):
        return [plain(number) for number in numbers]
    return float(numbers) if np.isfinite(numbers) else None
