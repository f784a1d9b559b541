"""Nesterov's accelerated gradient (Nesterov 1983; Sutskever et al. 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import AT_LEAST_0, BELOW_1, array, arrays, one_of, within
from ms_adam.reference.method import Method


class NesterovState(NamedTuple):
    """The state of Nesterov's method."""

    step: int  # t, the steps made
    velocity: np.ndarray  # v, of the parameter's shape


@dataclass(frozen=True)
class Nesterov(Method):
    """Momentum whose gradient is taken where the velocity is about to lead.

        form="torch"       v = rho v + g(w)
                           w = w - learning_rate * (g(w) + rho v)
        form="sutskever"   v = rho v - learning_rate * g(w + rho v)
                           w = w + v

    The two are one method: the first's parameter is the second's w + rho v, while the learning rate
    is constant. For the second the caller takes the gradient at `lookahead(parameter, state)`. A
    gradient taken at the parameter would make plain momentum of it: so "torch" is the default.

    >>> nesterov = Nesterov(learning_rate=0.5, rho=0.5)
    >>> nesterov.step([1.0], [1.0], nesterov.init([1.0]))[0]
    array([0.25])

    Sources: Sutskever et al. 2013, "On the importance of initialization and momentum in deep
    learning", equations 3 and 4; torch.optim.SGD, and MindSpore's pages of nn.SGD and nn.Momentum.

    Args:
        learning_rate: at least 0. None is published; 0.01.
        rho: the momentum, at least 0 and less than 1; 0.9.
        form: "torch" or "sutskever".
    """

    learning_rate: float = within(AT_LEAST_0, 0.01)
    rho: float = within(BELOW_1, 0.9)
    form: str = one_of("torch", "sutskever")

    def init(self, parameter: ArrayLike) -> NesterovState:
        return NesterovState(0, np.zeros(np.shape(parameter)))

    def lookahead(self, parameter: ArrayLike, state: NesterovState) -> np.ndarray:
        """Returns the point at which the gradient of the next step is taken."""
        w, v = arrays(parameter, velocity=state.velocity)
        return array(w + self.rho * v) if self.form == "sutskever" else w

    def update(self, w: np.ndarray, g: np.ndarray, state: NesterovState) -> Tuple[Any, Any]:
        t = state.step + 1
        if self.form == "sutskever":
            v = self.rho * state.velocity - self.learning_rate * g
            return w + v, NesterovState(t, v)
        v = self.rho * state.velocity + g
        return w - self.learning_rate * (g + self.rho * v), NesterovState(t, v)
