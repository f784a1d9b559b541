"""Row-sparse gradients for a MindSpore optimizer. Graph code must live in a file of its own."""

from mindspore import nn
from mindspore.common.sparse_tensor import RowTensorInner


class RowFeed(nn.Cell):
    """Calls an optimizer with the gradient that an embedding has in graph mode.

    Args:
        optimizer: An optimizer of one parameter.
        shape: The parameter's shape.

    Inputs:
        indices: int32, the rows that have a gradient.
        values: float32, one row for each index.
    """

    def __init__(self, optimizer, shape):
        super().__init__()
        self.optimizer = optimizer
        self.shape = shape

    def construct(self, indices, values):
        return self.optimizer((RowTensorInner(indices, values, self.shape),))
