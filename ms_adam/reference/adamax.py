"""AdaMax (Kingma & Ba 2015, section 7.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.adam import AdamState, regularize
from ms_adam.reference.checks import ABOVE_0, AT_LEAST_0, BELOW_1, one_of, within
from ms_adam.reference.correction import bias_correction
from ms_adam.reference.method import Method


@dataclass(frozen=True)
class AdaMax(Method):
    """Adam with the infinity norm of the gradients in the place of their mean square.

        g = gradient / loss_scale  (+ weight_decay * w)  (- its mean, centralized)
        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g|)
        w = w - learning_rate / (1 - beta1^t) * m / (u + eps)

    An element whose gradients were all 0 stays where it is, also without eps.

    >>> adamax = AdaMax(learning_rate=0.1)
    >>> adamax.step([1.0, 1.0], [100.0, -0.01], adamax.init([1.0, 1.0]))[0].round(6)
    array([0.9, 1.1])

    Source: Kingma & Ba 2015, "Adam: a method for stochastic optimization", arXiv 1412.6980,
    Algorithm 2, which has a learning rate of 0.002 and no eps. Defaults are those of MindSpore.

    Args:
        learning_rate, eps: at least 0.
        beta1, beta2: decay rates, at least 0 and less than 1.
        weight_decay, loss_scale, maximize, centralize: as in `Adam`, with L2 decay.
    """

    learning_rate: float = within(AT_LEAST_0, 1e-3)
    beta1: float = within(BELOW_1, 0.9)
    beta2: float = within(BELOW_1, 0.999)
    eps: float = within(AT_LEAST_0, 1e-8)
    weight_decay: float = within(AT_LEAST_0, 0.0)
    loss_scale: float = within(ABOVE_0, 1.0)
    maximize: bool = one_of(False, True)
    centralize: bool = one_of(False, True)

    def init(self, parameter: ArrayLike) -> AdamState:
        """Returns an `AdamState`; its moment2 is u."""
        return AdamState(0, np.zeros(np.shape(parameter)), np.zeros(np.shape(parameter)), None)

    def update(self, w: np.ndarray, g: np.ndarray, state: AdamState) -> Tuple[Any, AdamState]:
        g, t = regularize(self, w, g, self.weight_decay), state.step + 1
        m = self.beta1 * state.moment1 + (1 - self.beta1) * g
        u = np.maximum(self.beta2 * state.moment2, np.abs(g))
        divisor = np.where(u + self.eps == 0, 1.0, u + self.eps)
        w = w - self.learning_rate / bias_correction(self.beta1, t) * m / divisor
        return w, AdamState(t, m, u, None)
