"""The networks that are trained.

Their first weights come from NumPy, so that every run of one seed, in either mode and on any
version of MindSpore, starts from the same arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from ms_adam.lab.problems.images import Images
from ms_adam.lab.problems.text import CLASSES, PADDING


class MultiLayerPerceptron(nn.Cell):
    """Dense layers with ReLU between them.

    Weights are drawn from a normal distribution of variance 2 / inputs (He et al. 2015, equation
    10), biases are zero.

    Args:
        sizes: The number of inputs, of units in each hidden layer, and of classes.
        seed: Decides the weights.

    Inputs:
        float32, shape (batch, inputs).

    Outputs:
        float32 logits, shape (batch, classes).
    """

    def __init__(self, sizes: Sequence[int], seed: int):
        super().__init__()
        random = np.random.default_rng(seed)
        layers = []
        for inputs, units in zip(sizes, sizes[1:]):
            weight = random.standard_normal((units, inputs)) * np.sqrt(2 / inputs)
            layers += [_dense(weight), nn.ReLU()]
        self.layers = nn.SequentialCell(layers[:-1])

    def construct(self, images):
        return self.layers(images)


class BagOfWords(nn.Cell):
    """A linear classifier of the mean of the words' rows in a table.

    The table is drawn from a normal distribution of variance 0.01 and the dense layer's weight from
    one of variance 1 / width.

    Args:
        rows: Rows of the table, that of the padding among them.
        width: Columns of the table.
        row_sparse: Whether the table's gradient is a RowTensor of the rows that are looked up
            (graph mode only), or a tensor of the table's shape.
        seed: Decides the first weights.

    Inputs:
        words: int32, shape (batch, most words in a bag).
        shares: float32, of the same shape: the weight of each row in the mean; 0 for padding.

    Outputs:
        float32 logits, shape (batch, 2).
    """

    def __init__(self, rows: int, width: int, row_sparse: bool, seed: int):
        super().__init__()
        random = np.random.default_rng(seed)
        table = 0.1 * random.standard_normal((rows, width))
        table[PADDING] = 0
        table = Tensor(table.astype(np.float32))
        if row_sparse:
            self.lookup = nn.EmbeddingLookup(rows, width, param_init=table, sparse=True)
        else:
            self.lookup = nn.Embedding(rows, width, embedding_table=table)
        self.dense = _dense(random.standard_normal((len(CLASSES), width)) / np.sqrt(width))
        self.sum = ops.ReduceSum()

    def construct(self, words, shares):
        # Each row's gradient is one product, shares x gradient of the mean, so there is nothing
        # that the two kinds of gradients could round differently before a word's are summed.
        return self.dense(self.sum(self.lookup(words) * shares.expand_dims(-1), 1))


def _dense(weight: np.ndarray) -> nn.Dense:
    """A dense layer whose biases are zero."""
    units, inputs = weight.shape
    dense = nn.Dense(inputs, units)
    dense.weight.set_data(Tensor(weight.astype(np.float32)))
    dense.bias.set_data(Tensor(np.zeros(units, np.float32)))
    return dense


def accuracy(model: nn.Cell, images: Images) -> np.floating:
    """Returns the share of images that a model classifies correctly, float64."""
    logits = model(mindspore.Tensor(images.inputs)).asnumpy()
    return np.mean(np.argmax(logits, axis=1) == images.labels)
