"""AdaGrad (Duchi, Hazan & Singer 2011)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import AT_LEAST_0, one_of, within
from ms_adam.reference.method import Method


class AdaGradState(NamedTuple):
    """The state of AdaGrad."""

    step: int  # t, the steps made
    accumulator: np.ndarray  # s, of the parameter's shape


@dataclass(frozen=True)
class AdaGrad(Method):
    """Steps divided by the root of the sum of all squared gradients.

        s = s + g^2
        w = w - learning_rate * g / (sqrt(s) + eps)

    >>> adagrad = AdaGrad(learning_rate=1.0)
    >>> adagrad.step([1.0, 1.0], [100.0, -0.01], adagrad.init([1.0, 1.0]))[0].round(6)
    array([0., 2.])

    Source: Duchi, Hazan & Singer 2011, "Adaptive subgradient methods for online learning and
    stochastic optimization", figure 1, with diagonal matrices: H = delta I + diag(s)^(1/2), so that
    epsilon, there delta, stands outside the root.

    Args:
        learning_rate: at least 0. None is published; 0.01.
        eps: at least 0. No value is published; 1e-10 as in torch. With 0, and s starting at 0, a
            first gradient of 0 gives 0 / 0, NaN.
        epsilon: "outside", as published and in torch; "inside": sqrt(s + eps), as in TensorFlow 2.
        initial_accumulator: where s starts, at least 0: 0, as published and in torch. 0.1 in
            TensorFlow 2, and in MindSpore's nn.Adagrad, which has no epsilon: eps=0.
    """

    learning_rate: float = within(AT_LEAST_0, 0.01)
    eps: float = within(AT_LEAST_0, 1e-10)
    epsilon: str = one_of("outside", "inside")
    initial_accumulator: float = within(AT_LEAST_0, 0.0)

    def init(self, parameter: ArrayLike) -> AdaGradState:
        return AdaGradState(0, np.full(np.shape(parameter), self.initial_accumulator))

    def update(self, w: np.ndarray, g: np.ndarray, state: AdaGradState) -> Tuple[Any, AdaGradState]:
        s = state.accumulator + np.square(g)
        root = np.sqrt(s + self.eps) if self.epsilon == "inside" else np.sqrt(s) + self.eps
        return w - self.learning_rate * g / root, AdaGradState(state.step + 1, s)
