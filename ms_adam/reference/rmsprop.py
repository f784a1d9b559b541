"""RMSProp (Tieleman & Hinton 2012, lecture 6.5)."""

from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from ms_adam.reference.checks import array, check_above_0, check_at_least_0, check_decay_rate
from ms_adam.reference.checks import check_one_of


class RMSPropState(NamedTuple):
    """What RMSProp remembers; arrays have the parameter's shape."""

    step: int
    mean_square: np.ndarray
    mean: Optional[np.ndarray]     # of the gradient; centered alone


@dataclass(frozen=True)
class RMSProp:
    """s = beta s + (1 - beta) g^2,  w = w - learning_rate * g / (sqrt(s) + eps).

    The lecture divides by sqrt(s) and names no epsilon. Versions put it "outside" the root (torch) or
    "inside" (TensorFlow, MindSpore's nn.RMSProp); "centered" subtracts the squared mean of the
    gradient (Graves 2013, equations 38 to 40).

    Args:
        learning_rate: 0.001, the lecture's.
        beta: 0.9, the lecture's.
        eps: 1e-8.
        epsilon: "outside" or "inside".
        centered: whether s - mean^2 takes the place of s.
    """

    learning_rate: float = 1e-3
    beta: float = 0.9
    eps: float = 1e-8
    epsilon: str = "outside"
    centered: bool = False

    def __post_init__(self):
        check_at_least_0(learning_rate=self.learning_rate)
        check_decay_rate(beta=self.beta)
        check_above_0(eps=self.eps)
        check_one_of("epsilon", self.epsilon, ("outside", "inside"))

    def init(self, parameter):
        zeros = np.zeros(np.shape(parameter))
        return RMSPropState(0, zeros, zeros if self.centered else None)

    def step(self, parameter, gradient, state, *, learning_rate=None):
        rate = self.learning_rate if learning_rate is None else learning_rate
        g = array(gradient)
        s = array(self.beta * state.mean_square + (1 - self.beta) * g**2)
        mean = array(self.beta * state.mean + (1 - self.beta) * g) if self.centered else None
        variance = np.maximum(s - mean**2, 0.0) if self.centered else s
        root = (np.sqrt(variance + self.eps) if self.epsilon == "inside"
                else np.sqrt(variance) + self.eps)
        return array(array(parameter) - rate * g / root), RMSPropState(state.step + 1, s, mean)
