"""Momentum (Polyak 1964), in the forms in which it is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import AT_LEAST_0, BELOW_1, one_of, within
from ms_adam.reference.correction import bias_correction
from ms_adam.reference.method import Method


class MomentumState(NamedTuple):
    """The state of momentum."""

    step: int  # t, the steps made
    velocity: np.ndarray  # v, of the parameter's shape


@dataclass(frozen=True)
class Momentum(Method):
    """Gradient descent with an accumulated velocity.

        form="velocity"   v = rho v + g                   w = w - learning_rate * v
        form="scaled"     v = rho v - learning_rate * g   w = w + v
        form="ema"        v = rho v + (1 - rho) g         w = w - learning_rate * v / c,
                          c = 1, or 1 - rho^t with bias_correction

    While the learning rate is constant the first two go the same way, and so does the third without
    correction if its learning rate is 1 / (1 - rho) times theirs. When the rate changes, only
    "scaled" lets earlier gradients keep the rate that they came with.

    >>> momentum = Momentum(learning_rate=0.5, rho=0.5)
    >>> w, state = momentum.step([1.0], [1.0], momentum.init([1.0]))
    >>> momentum.step(w, [1.0], state)[0]
    array([-0.25])

    Sources: Polyak 1964, "Some methods of speeding up the convergence of iteration methods", and
    Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning",
    equations 1 and 2, for "scaled"; torch.optim.SGD and MindSpore's nn.Momentum compute "velocity";
    "ema" is the first moment of Adam (Kingma & Ba 2015) by itself.

    Args:
        learning_rate: at least 0. None is published; 0.01.
        rho: the momentum, at least 0 and less than 1; 0.9.
        form: "velocity", "scaled" or "ema".
        bias_correction: only for form="ema".
    """

    learning_rate: float = within(AT_LEAST_0, 0.01)
    rho: float = within(BELOW_1, 0.9)
    form: str = one_of("velocity", "scaled", "ema")
    bias_correction: bool = one_of(False, True)

    def __post_init__(self):
        super().__post_init__()
        if self.bias_correction and self.form != "ema":
            raise ValueError(
                "'bias_correction' must be False unless form is 'ema', but got True "
                f"with form={self.form!r}."
            )

    def init(self, parameter: ArrayLike) -> MomentumState:
        return MomentumState(0, np.zeros(np.shape(parameter)))

    def update(self, w: np.ndarray, g: np.ndarray, state: MomentumState) -> Tuple[Any, Any]:
        t = state.step + 1
        if self.form == "scaled":
            v = self.rho * state.velocity - self.learning_rate * g
            return w + v, MomentumState(t, v)
        v = self.rho * state.velocity + ((1 - self.rho) * g if self.form == "ema" else g)
        correction = bias_correction(self.rho, t) if self.bias_correction else 1.0
        return w - self.learning_rate * v / correction, MomentumState(t, v)
