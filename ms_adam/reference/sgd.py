"""Stochastic gradient descent (Robbins & Monro 1951)."""

from dataclasses import dataclass
from typing import NamedTuple

from ms_adam.reference.checks import array, check_at_least_0


class SGDState(NamedTuple):
    """SGD remembers nothing but the steps made."""

    step: int


@dataclass(frozen=True)
class SGD:
    """w = w - learning_rate * g.

    Args:
        learning_rate: has no published default; 0.01 is the usual first try.
    """

    learning_rate: float = 0.01

    def __post_init__(self):
        check_at_least_0(learning_rate=self.learning_rate)

    def init(self, parameter):
        return SGDState(0)

    def step(self, parameter, gradient, state, *, learning_rate=None):
        rate = self.learning_rate if learning_rate is None else learning_rate
        return array(array(parameter) - rate * array(gradient)), SGDState(state.step + 1)
