"""Nesterov's accelerated gradient (Nesterov 1983; Sutskever et al. 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import (
    AT_LEAST_0,
    BELOW_1,
    array,
    arrays,
    check_one_of,
    override,
    settle,
)
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

    learning_rate: float = 0.01
    rho: float = 0.9
    form: str = "torch"

    def __post_init__(self):
        settle(self, AT_LEAST_0, "learning_rate")
        settle(self, BELOW_1, "rho")
        check_one_of(self, "form", "torch", "sutskever")

    def init(self, parameter: ArrayLike) -> NesterovState:
        return NesterovState(0, np.zeros(np.shape(parameter)))

    def lookahead(self, parameter: ArrayLike, state: NesterovState) -> np.ndarray:
        """Returns the point at which the gradient of the next step is taken."""
        w, v = arrays(parameter, velocity=state.velocity)
        return array(w + self.rho * v) if self.form == "sutskever" else w

    def step(
        self,
        parameter: ArrayLike,
        gradient: ArrayLike,
        state: NesterovState,
        *,
        learning_rate: Optional[float] = None,
    ) -> Tuple[np.ndarray, NesterovState]:
        rate = override("learning_rate", learning_rate, self.learning_rate)
        w, g, v = arrays(parameter, gradient=gradient, velocity=state.velocity)
        t = state.step + 1
        if self.form == "sutskever":
            v = array(self.rho * v - rate * g)
            return array(w + v), NesterovState(t, v)
        v = array(self.rho * v + g)
        return array(w - rate * (g + self.rho * v)), NesterovState(t, v)
