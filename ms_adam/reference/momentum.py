"""Momentum (Polyak 1964), in the forms in which it is published."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ms_adam.reference.checks import array, check_at_least_0, check_decay_rate, check_one_of


class MomentumState(NamedTuple):
    """What momentum remembers; the velocity has the parameter's shape."""

    step: int
    velocity: np.ndarray


@dataclass(frozen=True)
class Momentum:
    """Gradient descent with an accumulated velocity.

        form="velocity"   v = rho v + g                   w = w - learning_rate * v
        form="scaled"     v = rho v - learning_rate * g   w = w + v
        form="ema"        v = rho v + (1 - rho) g         w = w - learning_rate * v

    The first is torch's and MindSpore's; the second Sutskever et al. 2013, equations 1 and 2; the
    two agree while the learning rate is constant. The third is the first with learning_rate / (1 -
    rho) and, with `bias_correction`, v / (1 - rho^t): Adam's first moment alone.

    Args:
        learning_rate: no published default; 0.01.
        rho: the momentum; 0.9.
        form: "velocity", "scaled" or "ema".
        bias_correction: for form="ema" alone.
    """

    learning_rate: float = 0.01
    rho: float = 0.9
    form: str = "velocity"
    bias_correction: bool = False

    def __post_init__(self):
        check_at_least_0(learning_rate=self.learning_rate)
        check_decay_rate(rho=self.rho)
        check_one_of("form", self.form, ("velocity", "scaled", "ema"))
        if self.bias_correction and self.form != "ema":
            raise ValueError(f"'bias_correction' is for form='ema', but got form={self.form!r}.")

    def init(self, parameter):
        return MomentumState(0, np.zeros(np.shape(parameter)))

    def step(self, parameter, gradient, state, *, learning_rate=None):
        rate = self.learning_rate if learning_rate is None else learning_rate
        w, g, t = array(parameter), array(gradient), state.step + 1
        if self.form == "scaled":
            velocity = array(self.rho * state.velocity - rate * g)
            return array(w + velocity), MomentumState(t, velocity)
        weight = 1 - self.rho if self.form == "ema" else 1.0
        velocity = array(self.rho * state.velocity + weight * g)
        correction = 1 - self.rho**t if self.bias_correction else 1.0
        return array(w - rate * velocity / correction), MomentumState(t, velocity)
