"""Errors for bad numbers, and float64 for good ones."""

import math

import numpy as np


def array(x):
    """A float64 array; of shape () for a number."""
    return np.asarray(x, dtype=np.float64)


def check_at_least_0(**numbers):
    """Raise ValueError unless each number is finite and not negative."""
    for name, value in numbers.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"'{name}' must be finite and at least 0, but got {value!r}.")


def check_above_0(**numbers):
    """Raise ValueError unless each number is finite and greater than 0."""
    for name, value in numbers.items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"'{name}' must be finite and greater than 0, but got {value!r}.")


def check_decay_rate(**numbers):
    """Raise ValueError unless each number is in [0, 1)."""
    for name, value in numbers.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"'{name}' must be in [0, 1), but got {value!r}.")


def check_one_of(name, value, allowed):
    """Raise ValueError unless the value is one of the allowed."""
    if value not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise ValueError(f"'{name}' must be one of {choices}, but got {value!r}.")
