"""Adam (Kingma & Ba 2015) and its variants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.checks import ABOVE_0, AT_LEAST_0, BELOW_1, one_of, within
from ms_adam.reference.correction import bias_correction
from ms_adam.reference.method import Method


class AdamState(NamedTuple):
    """The state of Adam; arrays have the parameter's shape."""

    step: int  # t, the steps made
    moment1: np.ndarray  # m, before correction
    moment2: np.ndarray  # v, before correction
    vhat: Optional[np.ndarray]  # the largest v so far, before correction; None unless amsgrad


def regularize(method: Any, w: np.ndarray, g: np.ndarray, decay: float) -> np.ndarray:
    """Returns the gradient of the unscaled, regularized loss, centralized if the method says so."""
    g = g / method.loss_scale
    if method.maximize:
        g = -g
    if decay:
        g = g + decay * w
    if method.centralize and g.ndim >= 2 and g.size:
        g = g - g.mean(axis=tuple(range(1, g.ndim)), keepdims=True)
    return g


@dataclass(frozen=True)
class Adam(Method):
    """Adam as published; arguments choose among its versions.

        g = gradient / loss_scale  (+ weight_decay * w, unless decoupled)  (- its mean, centralized)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        mhat = m / (1 - beta1^t),   vhat = v / (1 - beta2^t)
        w = w - learning_rate * mhat / (sqrt(vhat) + eps)

    >>> adam = Adam(learning_rate=0.1)
    >>> adam.step([1.0, 1.0], [100.0, -0.01], adam.init([1.0, 1.0]))[0].round(6)
    array([0.9, 1.1])

    Source: Kingma & Ba 2015, "Adam: a method for stochastic optimization", arXiv 1412.6980,
    Algorithm 1, whose numbers are the defaults.

    Args:
        learning_rate: alpha, at least 0.
        beta1: decay rate of the first moment, at least 0 and less than 1: 0.9. 0 leaves RMSProp
            with bias correction (section 5).
        beta2: decay rate of the second moment, at least 0 and less than 1: 0.999. 0.99 and 0.9999
            too in the paper's section 6.4; 0.98 in Vaswani et al. 2017.
        eps: at least 0: 1e-8. 1e-7 in Keras; 1e-6 in BERT. With 0, a first gradient of 0 gives
            0 / 0, NaN.
        epsilon: where it stands.
            "outside": mhat / (sqrt(vhat) + eps), Algorithm 1; torch, optax.
            "hat": sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps), just before section 2.1,
            where it is called epsilon-hat; TensorFlow, Keras, MindSpore's nn.Adam. In the first
            step it weighs as much as 1 / sqrt(1 - beta2), or 32, times itself in Algorithm 1.
            "inside": mhat / sqrt(vhat + eps); `eps_root` in optax.
        bias_correction: False leaves out both corrections (BERT; the comparison of section 6.4).
        nesterov: beta1 m + (1 - beta1) g takes the place of m in the update, under the same
            correction 1 - beta1^t. So TensorFlow's kernel and MindSpore have it; it is not NAdam
            (Dozat 2016), which corrects each of the two parts by its own.
        amsgrad: the largest v so far takes the place of v in the update. As in torch and MindSpore
            it is taken before the correction; optax takes it after. With bias_correction=False it
            is Algorithm 2 of Reddi, Kale & Kumar 2018, "On the convergence of Adam and beyond", but
            for eps.
        weight_decay: lambda, at least 0.
        decoupled: True: w also loses learning_rate * weight_decay * w, AdamW. Loshchilov & Hutter
            2019, "Decoupled weight decay regularization", Algorithm 2, where only the schedule
            multiplies lambda; torch and MindSpore multiply by the whole learning rate, and so does
            this. False: L2, weight_decay * w added to the gradient.
        loss_scale: the factor that the gradients carry, greater than 0.
        maximize: the gradient changes its sign, so that w goes up; before weight decay is added to
            it, as in torch.
        centralize: the gradient loses its mean over all axes but the first, if it has two axes or
            more. Yong et al. 2020, "Gradient centralization", equation 1; after the L2 term, as in
            MindSpore.
    """

    learning_rate: float = within(AT_LEAST_0, 1e-3)
    beta1: float = within(BELOW_1, 0.9)
    beta2: float = within(BELOW_1, 0.999)
    eps: float = within(AT_LEAST_0, 1e-8)
    epsilon: str = one_of("outside", "hat", "inside")
    bias_correction: bool = one_of(True, False)
    nesterov: bool = one_of(False, True)
    amsgrad: bool = one_of(False, True)
    weight_decay: float = within(AT_LEAST_0, 0.0)
    decoupled: bool = one_of(False, True)
    loss_scale: float = within(ABOVE_0, 1.0)
    maximize: bool = one_of(False, True)
    centralize: bool = one_of(False, True)

    def init(self, parameter: ArrayLike) -> AdamState:
        shape = np.shape(parameter)
        return AdamState(
            0, np.zeros(shape), np.zeros(shape), np.zeros(shape) if self.amsgrad else None
        )

    def update(self, w: np.ndarray, g: np.ndarray, state: AdamState) -> Tuple[Any, AdamState]:
        t = state.step + 1
        decay = self.weight_decay
        g = regularize(self, w, g, 0.0 if self.decoupled else decay)
        m = self.beta1 * state.moment1 + (1 - self.beta1) * g
        # not g**2, which NumPy gives to pow for a number, and rounds otherwise than in an array
        v = self.beta2 * state.moment2 + (1 - self.beta2) * np.square(g)
        first = self.beta1 * m + (1 - self.beta1) * g if self.nesterov else m
        second, largest = v, None
        if self.amsgrad:
            assert state.vhat is not None
            second = largest = np.maximum(state.vhat, v)

        correction1 = bias_correction(self.beta1, t) if self.bias_correction else 1.0
        correction2 = bias_correction(self.beta2, t) if self.bias_correction else 1.0
        if self.epsilon == "outside":
            step = (first / correction1) / (np.sqrt(second / correction2) + self.eps)
        elif self.epsilon == "inside":
            step = (first / correction1) / np.sqrt(second / correction2 + self.eps)
        else:
            step = math.sqrt(correction2) / correction1 * first / (np.sqrt(second) + self.eps)
        if decay and self.decoupled:
            step = step + decay * w
        return w - self.learning_rate * step, AdamState(t, m, v, largest)
