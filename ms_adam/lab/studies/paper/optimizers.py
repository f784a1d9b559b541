"""The optimizers that the paper compares, as MindSpore runs them.

MindSpore's own are used if they have the published formula:

    SGD Nesterov   nn.SGD(nesterov=True), the form "torch" of ms_adam.reference.Nesterov
    AdaDelta       nn.Adadelta, equations 9 and 14 of Zeiler 2012, who has learning_rate 1

Those of Kingma & Ba are ms_adam's: Adam (Algorithm 1), AdaMax (Algorithm 2, with an epsilon beside
u_t), and Adam with averages of the weights (section 7.2). nn.Adam computes epsilon-hat.
AdaGrad is implemented here: nn.Adagrad adds a hidden 1e-8 inside the root, which is 1e-4 beside
it, more than the gradients of these networks. So is RMSProp: with nn.RMSProp, whose momentum is the
constant 0, a compiled step takes an epsilon of 1e-16 for 0 in some processes (MindSpore 2.10),
and weights become NaN where gradients are 0. tests/lab/studies/paper/test_paper_optimizers.py
compares each to float64.
"""

from __future__ import annotations

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


class RMSProp(nn.Optimizer):
    """RMSProp as in ms_adam.reference.RMSProp(epsilon="inside"): Tieleman & Hinton 2012.

    s = decay * s + (1 - decay) * g^2
    w = w - learning_rate * g / sqrt(s + epsilon)

    Settings of 1e-16 add 1e-8 where the mean square is 0, and nothing visible elsewhere.
    """

    def __init__(self, params, learning_rate, decay: float, epsilon: float):
        super().__init__(learning_rate, params)
        self.rest, self.epsilon = Tensor(1.0 - decay, float32), Tensor(epsilon, float32)
        self.mean_squares = self.parameters.clone(prefix="mean_square", init="zeros")

    def construct(self, gradients):
        learning_rate = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        for i in range(len(self.parameters)):
            mean_square = self.mean_squares[i]
            mean_square += self.rest * (ops.square(gradients[i]) - mean_square)
            change = learning_rate * gradients[i] / ops.sqrt(mean_square + self.epsilon)
            ops.assign(self.mean_squares[i], mean_square)
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
    "RMSProp": f"{__name__}.RMSProp",
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
    return targets.find(_TARGETS[name], {"learning_rate": rate, **options}).build(parameters)
