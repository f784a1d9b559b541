"""The optimizers that the paper compares, as MindSpore runs them.

MindSpore's own are taken where they have the published formula:

    SGD Nesterov   nn.SGD(nesterov=True), the form "torch" of ms_adam.reference.Nesterov
    RMSProp        nn.RMSProp, whose mean square is set to 0 before the first step (it starts at 1
                   there). Its epsilon stands inside the root; settings name 1e-16 to have 1e-8
                   where the mean square is 0, and none that could be seen where it is not
    AdaDelta       nn.Adadelta, equations 9 and 14 of Zeiler 2012; the paper has learning_rate 1
    AdaMax         nn.AdaMax, Algorithm 2 of Kingma & Ba 2015, with an epsilon of 1e-8 beside u_t

AdaGrad is our own few lines: nn.Adagrad has a hidden 1e-8 inside the root, that is 1e-4 beside it,
which gradients of these networks do not exceed. Each is tested against float64 in
tests/lab/studies/paper/test_paper_optimizers.py.
"""

from __future__ import annotations

from typing import Callable

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

import ms_adam


class AdaGrad(nn.Optimizer):
    """AdaGrad as ms_adam.reference.AdaGrad has it: Duchi, Hazan & Singer 2011, figure 1.

    s = s + g^2
    w = w - learning_rate * g / (sqrt(s) + eps)
    """

    def __init__(self, params, learning_rate: float, eps: float):
        super().__init__(learning_rate, params)
        self.eps = eps
        self.sums = self.parameters.clone(prefix="sum", init="zeros")

    def construct(self, gradients):
        for i in range(len(self.parameters)):
            total = self.sums[i] + ops.square(gradients[i])
            change = self.learning_rate * gradients[i] / (ops.sqrt(total) + self.eps)
            ops.assign(self.sums[i], total)
            ops.assign_sub(self.parameters[i], change)
        return True


def _adam(parameters, rate: float, s: dict):
    return ms_adam.Adam(
        parameters,
        rate,
        s["beta1"],
        s["beta2"],
        s["eps"],
        bias_correction=bool(s["bias_correction"]),
    )


def _nesterov(parameters, rate: float, s: dict):
    return nn.SGD(parameters, rate, momentum=s["momentum"], nesterov=True)


def _adagrad(parameters, rate: float, s: dict):
    return AdaGrad(parameters, rate, s["eps"])


def _rmsprop(parameters, rate: float, s: dict):
    optimizer = nn.RMSProp(parameters, rate, decay=s["decay"], epsilon=s["epsilon"])
    for mean_square in optimizer.ms:
        mean_square.set_data(Tensor(np.zeros(mean_square.shape, np.float32)))
    return optimizer


def _adadelta(parameters, rate: float, s: dict):
    return nn.Adadelta(parameters, rate, rho=s["rho"], epsilon=s["epsilon"])


def _adamax(parameters, rate: float, s: dict):
    return nn.AdaMax(parameters, rate, s["beta1"], s["beta2"], s["eps"])


_BUILDERS: dict[str, Callable] = {
    "Adam": _adam,
    "SGD Nesterov": _nesterov,
    "AdaGrad": _adagrad,
    "RMSProp": _rmsprop,
    "AdaDelta": _adadelta,
    "AdaMax": _adamax,
}


def build(name: str, parameters: list[Parameter], settings: dict[str, float]) -> nn.Optimizer:
    """Makes an optimizer whose learning rate `set_rate` sets.

    Args:
        name: One of `config.SETTINGS`.
        parameters: What it updates.
        settings: Its numbers but for the learning rate, as `config.SETTINGS` names them.
    """
    return _BUILDERS[name](parameters, 1e-3, settings)


def set_rate(optimizer: nn.Optimizer, learning_rate: float) -> None:
    """For the steps to come. The rate is a Parameter, so the compiled step stays."""
    optimizer.learning_rate.set_data(Tensor(learning_rate, mindspore.float32))


class State:
    """What an optimizer remembers, put back to what it was before the first step."""

    def __init__(self, optimizer: nn.Optimizer):
        own = {id(parameter) for parameter in optimizer.parameters}
        self._first = [
            (state, np.array(state.asnumpy()))
            for state in optimizer.get_parameters()
            if id(state) not in own
        ]

    def reset(self) -> None:
        for state, first in self._first:
            state.set_data(Tensor(first, state.dtype))
