"""The optimizers that the paper compares, as MindSpore runs them.

MindSpore's own are used if they have the published formula:

    SGD Nesterov   nn.SGD(nesterov=True), the form "torch" of ms_adam.reference.Nesterov
    RMSProp        nn.RMSProp, whose mean square is set to 0 before the first step (its initial
                   value is 1). Its epsilon is inside the root: settings of 1e-16 add 1e-8 where
                   the mean square is 0, and nothing visible elsewhere
    AdaDelta       nn.Adadelta, equations 9 and 14 of Zeiler 2012, who has learning_rate 1

Those of Kingma & Ba are ms_adam's: Adam (Algorithm 1), AdaMax (Algorithm 2, with an epsilon beside
u_t), and Adam with averages of the weights (section 7.2). nn.Adam computes epsilon-hat.
AdaGrad is implemented here: nn.Adagrad adds a hidden 1e-8 inside the root, which is 1e-4 beside it,
more than the gradients of these networks. tests/lab/studies/paper/test_paper_optimizers.py compares
each to float64.
"""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, float32, nn, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from ms_adam.lab import targets


class AdaGrad(nn.Optimizer):
    """AdaGrad as in ms_adam.reference.AdaGrad: Duchi, Hazan & Singer 2011, figure 1.

    s = s + g^2
    w = w - learning_rate * g / (sqrt(s) + eps)
    """

    def __init__(self, params, learning_rate, eps: float):
        super().__init__(learning_rate, params)
        self.eps = eps
        self.sums = self.parameters.clone(prefix="sum", init="zeros")

    def construct(self, gradients):
        learning_rate = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        for i in range(len(self.parameters)):
            total = self.sums[i] + ops.square(gradients[i])
            change = learning_rate * gradients[i] / (ops.sqrt(total) + self.eps)
            ops.assign(self.sums[i], total)
            ops.assign_sub(self.parameters[i], change)
        return True


class InverseSquareRoot(LearningRateSchedule):
    """The rate of step t is `rate` / sqrt(t)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = Parameter(Tensor(rate, float32), name="rate", requires_grad=False)

    def construct(self, global_step):
        return self.rate / ops.sqrt(ops.cast(global_step, float32) + 1)


_TARGETS = {
    "Adam": "ms_adam.Adam",
    "SGD Nesterov": "mindspore.nn.SGD",
    "AdaGrad": f"{__name__}.AdaGrad",
    "RMSProp": "mindspore.nn.RMSProp",
    "AdaDelta": "mindspore.nn.Adadelta",
    "AdaMax": "ms_adam.AdaMax",
    "Adam averaged": "ms_adam.Adam",
    "nn.Adam": "mindspore.nn.Adam",
}


def build(
    name: str, parameters: list[Parameter], settings: dict[str, float], decay: str = "none"
) -> targets.MindSporeOptimizer:
    """Builds an optimizer, whose learning rate is then set by `set_learning_rate`.

    Args:
        name: A key of `config.SETTINGS`.
        parameters: The parameters to optimize.
        settings: Its arguments besides the learning rate, as `config.SETTINGS` names them.
        decay: "none", or "inverse sqrt": step t divides the rate by sqrt(t).
    """
    options = dict(settings)
    for switch in {"bias_correction", "ema_debias"} & set(options):
        options[switch] = bool(options[switch])
    if name == "SGD Nesterov":
        options["nesterov"] = True
    # The optimizer, or the schedule, keeps the rate in a Parameter.
    rate = InverseSquareRoot(1e-3) if decay == "inverse sqrt" else 1e-3
    made = targets.find(_TARGETS[name], {"learning_rate": rate, **options}).build(parameters)
    if name == "RMSProp":
        for mean_square in made.optimizer.ms:
            mean_square.set_data(Tensor(np.zeros(mean_square.shape, np.float32)))
    return made
