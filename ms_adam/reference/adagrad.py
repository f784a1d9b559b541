"""AdaGrad (Duchi, Hazan & Singer 2011)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ms_adam.reference.checks import array, check_at_least_0, check_one_of


class AdaGradState(NamedTuple):
    """What AdaGrad remembers; the sum of squares has the parameter's shape."""

    step: int
    accumulator: np.ndarray


@dataclass(frozen=True)
class AdaGrad:
    """s = s + g^2,  w = w - learning_rate * g / (sqrt(s) + eps).

    Duchi et al. 2011, figure 1, diagonal: H_t = delta I + diag(s_t)^(1/2), so epsilon stands outside
    the root; "inside" is sqrt(s + eps). MindSpore's nn.Adagrad has no epsilon and starts the sum at
    0.1: eps=0.0, initial_accumulator=0.1.

    Args:
        learning_rate: no published default; 0.01.
        eps: delta in the paper, at least 0; 1e-10 as in torch.
        epsilon: "outside" or "inside".
        initial_accumulator: where the sum starts.
    """

    learning_rate: float = 0.01
    eps: float = 1e-10
    epsilon: str = "outside"
    initial_accumulator: float = 0.0

    def __post_init__(self):
        check_at_least_0(learning_rate=self.learning_rate, eps=self.eps,
                         initial_accumulator=self.initial_accumulator)
        check_one_of("epsilon", self.epsilon, ("outside", "inside"))
        if self.eps == 0.0 and self.initial_accumulator == 0.0:
            raise ValueError("one of 'eps' and 'initial_accumulator' must be greater than 0, but "
                             "both are 0: a gradient of 0 would be divided by 0.")

    def init(self, parameter):
        return AdaGradState(0, np.full(np.shape(parameter), self.initial_accumulator))

    def step(self, parameter, gradient, state, *, learning_rate=None):
        rate = self.learning_rate if learning_rate is None else learning_rate
        g = array(gradient)
        s = array(state.accumulator + g**2)
        root = np.sqrt(s + self.eps) if self.epsilon == "inside" else np.sqrt(s) + self.eps
        return array(array(parameter) - rate * g / root), AdaGradState(state.step + 1, s)
