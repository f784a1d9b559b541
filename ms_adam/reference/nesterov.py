"""Nesterov's accelerated gradient (Nesterov 1983; Sutskever et al. 2013)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ms_adam.reference.checks import array, check_at_least_0, check_decay_rate, check_one_of


class NesterovState(NamedTuple):
    """What Nesterov's method remembers; the velocity has the parameter's shape."""

    step: int
    velocity: np.ndarray


@dataclass(frozen=True)
class Nesterov:
    """Momentum whose gradient is taken where the velocity will lead.

        form="sutskever"   v = rho v - learning_rate * g(w + rho v)   w = w + v
        form="torch"       v = rho v + g(w)                           w = w - learning_rate (g + rho v)

    The first is Sutskever et al. 2013, equations 3 and 4: the caller takes the gradient at
    `lookahead(parameter, state)`. The second, of torch and MindSpore, takes it at the parameter; its
    parameter is the first form's look-ahead point, while the learning rate is constant.

    Args:
        learning_rate: no published default; 0.01.
        rho: the momentum; 0.9.
        form: "sutskever" or "torch".
    """

    learning_rate: float = 0.01
    rho: float = 0.9
    form: str = "torch"

    def __post_init__(self):
        check_at_least_0(learning_rate=self.learning_rate)
        check_decay_rate(rho=self.rho)
        check_one_of("form", self.form, ("sutskever", "torch"))

    def init(self, parameter):
        return NesterovState(0, np.zeros(np.shape(parameter)))

    def lookahead(self, parameter, state):
        """Where the gradient for the next step is to be taken."""
        if self.form == "torch":
            return array(parameter)
        return array(array(parameter) + self.rho * state.velocity)

    def step(self, parameter, gradient, state, *, learning_rate=None):
        rate = self.learning_rate if learning_rate is None else learning_rate
        w, g, t = array(parameter), array(gradient), state.step + 1
        if self.form == "sutskever":
            velocity = array(self.rho * state.velocity - rate * g)
            return array(w + velocity), NesterovState(t, velocity)
        velocity = array(self.rho * state.velocity + g)
        return array(w - rate * (g + self.rho * velocity)), NesterovState(t, velocity)
