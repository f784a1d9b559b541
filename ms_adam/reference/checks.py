"""Numbers in their range, declared beside their defaults, and arrays of one shape in float64."""

import math
from dataclasses import field
from numbers import Real
from typing import Any, Callable, List, NamedTuple

import numpy as np


class Range(NamedTuple):
    """The numbers that an argument may be: in words, and as a condition."""

    words: str
    holds: Callable[[float], bool]


AT_LEAST_0 = Range("finite and at least 0", lambda x: 0.0 <= x < math.inf)
ABOVE_0 = Range("finite and greater than 0", lambda x: 0.0 < x < math.inf)
BELOW_1 = Range("at least 0 and less than 1", lambda x: 0.0 <= x < 1.0)


def within(allowed: Range, default: float) -> Any:
    """Declares a number of a `Method`, which checks it and converts it to a float."""
    return field(default=default, metadata={"allowed": allowed})


def one_of(*allowed: Any) -> Any:
    """Declares an argument of a `Method` with a few values, the first of them the default."""
    return field(default=allowed[0], metadata={"allowed": allowed})


def number(name: str, value: Any, allowed: Range) -> float:
    """Returns the value as a float; raises ValueError unless it is in the allowed range.

    A number between the largest float64 below 1 and 1 is in the range of beta, but its float is 1.
    """
    try:
        x = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        x = math.inf
    if not allowed.holds(x):
        raise ValueError(f"'{name}' must be a number, {allowed.words}, but got {value!r}.")
    return x


def array(x: Any) -> np.ndarray:
    """Returns a float64 array; of shape () for a number, which NumPy makes a scalar."""
    return np.asarray(x, dtype=np.float64)


def arrays(parameter: Any, **others: Any) -> List[np.ndarray]:
    """Returns float64 arrays of the parameter and the others; raises ValueError if shapes differ.

    NumPy would broadcast a gradient of another shape, and return a parameter of another shape.
    """
    shape = np.shape(parameter)
    for name, value in others.items():
        got = None if value is None else np.shape(value)
        if got != shape:
            raise ValueError(f"'{name}' must have the parameter's shape, {shape}, but got {got}.")
    return [array(parameter), *map(array, others.values())]
