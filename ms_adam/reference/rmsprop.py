"""RMSProp (Tieleman & Hinton 2012, lecture 6.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import AT_LEAST_0, BELOW_1, one_of, within
from ms_adam.reference.method import Method


class RMSPropState(NamedTuple):
    """The state of RMSProp; arrays have the parameter's shape."""

    step: int  # t, the steps made
    mean_square: np.ndarray  # s
    mean: Optional[np.ndarray]  # n, of the gradient; None unless centered


@dataclass(frozen=True)
class RMSProp(Method):
    """Steps divided by the root of a moving average of the squared gradients.

        s = beta s + (1 - beta) g^2
        n = beta n + (1 - beta) g
        w = w - learning_rate * g / (sqrt(s) + eps),   s - n^2 in place of s if centered

    >>> rmsprop = RMSProp(learning_rate=0.1, beta=0.75, eps=0.0)
    >>> rmsprop.step([1.0, 1.0], [100.0, -0.01], rmsprop.init([1.0, 1.0]))[0]
    array([0.8, 1.2])

    Sources: Tieleman & Hinton 2012, "Lecture 6.5: rmsprop", Neural Networks for Machine Learning;
    for "centered" Graves 2013, "Generating sequences with recurrent neural networks", equations 38
    to 41, here without his momentum.

    Args:
        learning_rate: at least 0. The lecture names none; 0.001 as in Keras.
        beta: at least 0 and less than 1. 0.9, the lecture's; 0.95 in Graves; 0.99 in torch.
        eps: at least 0. The lecture has none, that is 0, and then a first gradient of 0 gives
            0 / 0, NaN; 1e-8 as in torch; 1e-4 in Graves; 1e-10 in TensorFlow 1 and MindSpore.
        epsilon: "outside" the root, as in torch; "inside": sqrt(s + eps), as in Graves, TensorFlow
            and MindSpore.
        centered: whether the variance of the gradient takes the place of its mean square.
        initial_mean_square: where s starts, at least 0: 0. 1 in TensorFlow 1 and MindSpore's
            nn.RMSProp, which makes their first steps small where gradients are.
    """

    learning_rate: float = within(AT_LEAST_0, 1e-3)
    beta: float = within(BELOW_1, 0.9)
    eps: float = within(AT_LEAST_0, 1e-8)
    epsilon: str = one_of("outside", "inside")
    centered: bool = one_of(False, True)
    initial_mean_square: float = within(AT_LEAST_0, 0.0)

    def init(self, parameter: ArrayLike) -> RMSPropState:
        shape = np.shape(parameter)
        return RMSPropState(
            0, np.full(shape, self.initial_mean_square), np.zeros(shape) if self.centered else None
        )

    def update(self, w: np.ndarray, g: np.ndarray, state: RMSPropState) -> Tuple[Any, RMSPropState]:
        s = self.beta * state.mean_square + (1 - self.beta) * np.square(g)
        square, n = s, None
        if self.centered:
            assert state.mean is not None
            n = self.beta * state.mean + (1 - self.beta) * g
            square = np.maximum(s - np.square(n), 0.0)  # a variance; only rounding takes it below 0
        if self.epsilon == "inside":
            root = np.sqrt(square + self.eps)
        else:
            root = np.sqrt(square) + self.eps
        return w - self.learning_rate * g / root, RMSPropState(state.step + 1, s, n)
