"""The compiled steps: MindSpore compiles what stands in a file."""

from mindspore import ParameterTuple, nn
from mindspore.common.sparse_tensor import RowTensorInner


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


class SparseStep(nn.Cell):
    """One step of an optimizer of a table with a gradient for some of its rows."""

    def __init__(self, optimizer, values, shape):
        super().__init__(auto_prefix=False)
        self.optimizer, self.values, self.shape = optimizer, values, shape

    def construct(self, rows):
        self.optimizer((RowTensorInner(rows, self.values, self.shape),))
        return rows[:1] + 1


class EmptySparse(nn.Cell):
    """What calling it costs."""

    def construct(self, rows):
        return rows[:1] + 1
