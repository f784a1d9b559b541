"""Stochastic gradient descent (Robbins & Monro 1951)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import AT_LEAST_0, array, arrays, override, settle
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

    learning_rate: float = 0.01

    def __post_init__(self):
        settle(self, AT_LEAST_0, "learning_rate")

    def init(self, parameter: ArrayLike) -> SGDState:
        return SGDState(0)

    def step(
        self,
        parameter: ArrayLike,
        gradient: ArrayLike,
        state: SGDState,
        *,
        learning_rate: Optional[float] = None,
    ) -> Tuple[np.ndarray, SGDState]:
        rate = override("learning_rate", learning_rate, self.learning_rate)
        w, g = arrays(parameter, gradient=gradient)
        return array(w - rate * g), SGDState(state.step + 1)
