"""AdaMax (Kingma & Ba 2015, section 7.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.adam import AdamState, regularize
from ms_adam.reference.checks import ABOVE_0, AT_LEAST_0, BELOW_1, array, arrays, override, settle
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

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    loss_scale: float = 1.0
    maximize: bool = False
    centralize: bool = False

    def __post_init__(self):
        settle(self, AT_LEAST_0, "learning_rate", "eps", "weight_decay")
        settle(self, BELOW_1, "beta1", "beta2")
        settle(self, ABOVE_0, "loss_scale")

    def init(self, parameter: ArrayLike) -> AdamState:
        """Returns an `AdamState`; its moment2 is u."""
        return AdamState(0, np.zeros(np.shape(parameter)), np.zeros(np.shape(parameter)), None)

    def step(
        self,
        parameter: ArrayLike,
        gradient: ArrayLike,
        state: AdamState,
        *,
        learning_rate: Optional[float] = None,
        weight_decay: Optional[float] = None,
    ) -> Tuple[np.ndarray, AdamState]:
        """Makes one step, as `Method.step`; weight_decay can be given for this step too."""
        alpha = override("learning_rate", learning_rate, self.learning_rate)
        decay = override("weight_decay", weight_decay, self.weight_decay)
        given = dict(gradient=gradient, moment1=state.moment1, moment2=state.moment2)
        w, g, m, u = arrays(parameter, **given)
        g, t = regularize(self, w, g, decay), state.step + 1
        m = array(self.beta1 * m + (1 - self.beta1) * g)
        u = array(np.maximum(self.beta2 * u, np.abs(g)))
        divisor = np.where(u + self.eps == 0, 1.0, u + self.eps)
        w = array(w - alpha / bias_correction(self.beta1, t) * m / divisor)
        return w, AdamState(t, m, u, None)
