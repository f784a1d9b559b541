"""The compiled steps: MindSpore compiles what stands in a file."""

from mindspore import ParameterTuple, nn


class Step(nn.Cell):
    """One step of an optimizer with gradients that are parameters of the graph."""

    def __init__(self, optimizer, gradients):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.gradients = ParameterTuple(gradients)

    def construct(self, x):
        self.optimizer(self.gradients)
        return x + 1.0


class Empty(nn.Cell):
    """What calling a compiled graph costs."""

    def construct(self, x):
        return x + 1.0
