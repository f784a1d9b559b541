"""Adam and its variants (Kingma & Ba 2015)."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from ms_adam.reference.checks import (array, check_above_0, check_at_least_0, check_decay_rate,
                                      check_one_of)


class AdamState(NamedTuple):
    """What Adam remembers; arrays have the parameter's shape."""

    step: int                      # t, the steps made
    moment1: np.ndarray            # m, before correction
    moment2: np.ndarray            # v, before correction
    vhat: Optional[np.ndarray]     # max of v over the steps, before correction; AMSGrad alone


@dataclass(frozen=True)
class Adam:
    """Adam as published, with the places where its versions differ as arguments.

        g = gradient / loss_scale  (+ weight_decay * w  unless decoupled)  (- its mean, centralized)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        w = w - learning_rate * mhat / (sqrt(vhat) + eps),
            mhat = m / (1 - beta1^t),  vhat = v / (1 - beta2^t)

    Args:
        learning_rate: alpha; the paper's 0.001.
        beta1: decay rate of the first moment. 0.9; 0 leaves RMSProp with correction.
        beta2: decay rate of the second moment: 0.999 in Algorithm 1. Texts that reproduce the paper
            also use 0.99 and 0.9999 (section 6.4).
        eps: epsilon: 1e-8 in Algorithm 1; 1e-7 in TensorFlow 2; 1e-6 in BERT.
        epsilon: where it stands. "outside": sqrt(vhat) + eps, Algorithm 1. "hat": added to the root
            of the uncorrected moment, alpha_t m / (sqrt(v) + eps), the last lines of section 2,
            what TensorFlow 1 and MindSpore's nn.Adam compute. "inside": sqrt(vhat + eps).
        bias_correction: False leaves out both corrections (section 6.4's comparison; BERT).
        nesterov: m is replaced in the update by beta1 m + (1 - beta1) g, under the same
            correction. That is the form of TensorFlow and MindSpore, not Dozat's NAdam.
        amsgrad: v is replaced in the update by its maximum over the steps (Reddi et al. 2018,
            Algorithm 2; corrected as in torch, where the maximum is also taken before correction).
        weight_decay: lambda.
        decoupled: True for AdamW: w also loses learning_rate * weight_decay * w (Loshchilov & Hutter
            2019, Algorithm 2); False for L2.
        loss_scale: what the gradients were multiplied by.
        centralize: the gradient loses its mean over all axes but the first, if it has two or more
            (Yong et al. 2020, equation 1); after the L2 term.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    epsilon: str = "outside"
    bias_correction: bool = True
    nesterov: bool = False
    amsgrad: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False
    loss_scale: float = 1.0
    centralize: bool = False

    def __post_init__(self):
        check_at_least_0(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        check_decay_rate(beta1=self.beta1, beta2=self.beta2)
        check_above_0(eps=self.eps, loss_scale=self.loss_scale)
        check_one_of("epsilon", self.epsilon, ("outside", "hat", "inside"))

    def init(self, parameter):
        zeros = np.zeros(np.shape(parameter))
        return AdamState(0, zeros, zeros, zeros if self.amsgrad else None)

    def step(self, parameter, gradient, state, *, learning_rate=None, weight_decay=None):
        alpha = self.learning_rate if learning_rate is None else learning_rate
        decay = self.weight_decay if weight_decay is None else weight_decay
        w, t = array(parameter), state.step + 1

        g = array(gradient) / self.loss_scale
        if not self.decoupled:
            g = g + decay * w
        if self.centralize and g.ndim > 1:
            g = g - g.mean(axis=tuple(range(1, g.ndim)), keepdims=True)

        m = array(self.beta1 * state.moment1 + (1 - self.beta1) * g)
        v = array(self.beta2 * state.moment2 + (1 - self.beta2) * g**2)
        largest = np.maximum(state.vhat, v) if self.amsgrad else None
        numerator = self.beta1 * m + (1 - self.beta1) * g if self.nesterov else m
        second = largest if self.amsgrad else v

        correction1 = _correction(self.beta1, t) if self.bias_correction else 1.0
        correction2 = _correction(self.beta2, t) if self.bias_correction else 1.0
        if self.epsilon == "outside":
            denominator = np.sqrt(second / correction2) + self.eps
        elif self.epsilon == "inside":
            denominator = np.sqrt(second / correction2 + self.eps)
        else:
            denominator = (np.sqrt(second) + self.eps) / np.sqrt(correction2)
        update = alpha * (numerator / correction1) / denominator
        if self.decoupled:
            update = update + alpha * decay * w
        return array(w - update), AdamState(t, m, v, largest)


def _correction(beta, t):
    """1 - beta^t; the power itself would lose the digits that beta has in common with 1."""
    return -math.expm1(t * math.log(beta)) if beta > 0.0 else 1.0
