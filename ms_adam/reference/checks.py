"""Checks of arguments: numbers in their range, arrays of one shape, all in float64."""

import math
from numbers import Real
from typing import Any, Callable, List, Optional, Tuple

import numpy as np

Range = Tuple[str, Callable[[float], bool]]

AT_LEAST_0: Range = ("finite and at least 0", lambda x: 0.0 <= x < math.inf)
ABOVE_0 = ("finite and greater than 0", lambda x: 0.0 < x < math.inf)
BELOW_1 = ("at least 0 and less than 1", lambda x: 0.0 <= x < 1.0)


def number(name: str, value: Any, allowed: Range) -> float:
    """Returns the value as a float; raises ValueError unless it is in the allowed range.

    A number between the largest float64 below 1 and 1 is in the range of beta, but its float is 1.
    """
    words, holds = allowed
    try:
        x = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        x = math.inf
    if not holds(x):
        raise ValueError(f"'{name}' must be a number, {words}, but got {value!r}.")
    return x


def settle(method: Any, allowed: Range, *names: str) -> None:
    """Checks numbers of a frozen method and converts them to floats.

    A float32 scalar would turn every product with a Python number into float32.
    """
    for name in names:
        object.__setattr__(method, name, number(name, getattr(method, name), allowed))


def override(name: str, value: Optional[float], own: float) -> float:
    """Returns the value given for one step, checked, or else the method's own."""
    return own if value is None else number(name, value, AT_LEAST_0)


def check_one_of(method: Any, name: str, *allowed: Any) -> None:
    """Raises ValueError unless the method's attribute is one of the allowed values."""
    value = getattr(method, name)
    if value not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise ValueError(f"'{name}' must be one of {choices}, but got {value!r}.")


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
