"""Stochastic gradient descent (Robbins & Monro 1951)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import AT_LEAST_0, within
from ms_adam.reference.method import Method


class SGDState(NamedTuple):
    """The state of SGD: only the number of steps."""

    step: int


@dataclass(frozen=True)
class SGD(Method):
    """Stochastic gradient descent.

        w = w - learning_rate * g

    >>> SGD(learning_rate=0.5).step([1.0, 2.0], [1.0, -1.0], SGDState(0))[0]
    array([0.5, 2.5])

    Source: Robbins & Monro 1951, "A stochastic approximation method", for a decreasing rate.

    Args:
        learning_rate: at least 0. None is published; 0.01 as in Keras.
    """

    learning_rate: float = within(AT_LEAST_0, 0.01)

    def init(self, parameter: ArrayLike) -> SGDState:
        return SGDState(0)

    def update(self, w: np.ndarray, g: np.ndarray, state: SGDState) -> Tuple[Any, SGDState]:
        return w - self.learning_rate * g, SGDState(state.step + 1)
