"""The classifier of the experiment on text, and its training step."""

from __future__ import annotations

from typing import Optional

import mindspore
import numpy as np
from mindspore import nn, ops

from ms_adam.lab.problems.text import CLASSES, PADDING


class BagOfWords(nn.Cell):
    """A linear classifier of the mean of the words' rows in a table.

    The table is drawn from a normal distribution of variance 0.01 and the dense layer's weight from
    one of variance 1 / width; both by NumPy, so that every run of one seed starts alike.

    Args:
        rows: Of the table, that of the padding among them.
        width: Of the table.
        row_sparse: Whether the table's gradient is a RowTensor of the rows that are looked up
            (graph mode alone), or a tensor of the table's shape.
        seed: Decides the first weights.

    Inputs:
        words: int32, shape (batch, most words in a bag).
        shares: float32, of the same shape: what each row counts; 0 for padding.

    Outputs:
        float32 logits, shape (batch, 2).
    """

    def __init__(self, rows: int, width: int, row_sparse: bool, seed: int):
        super().__init__()
        random = np.random.default_rng(seed)
        table = 0.1 * random.standard_normal((rows, width))
        table[PADDING] = 0
        table = mindspore.Tensor(table.astype(np.float32))
        weight = random.standard_normal((len(CLASSES), width)) / np.sqrt(width)
        if row_sparse:
            self.lookup = nn.EmbeddingLookup(rows, width, param_init=table, sparse=True)
        else:
            self.lookup = nn.Embedding(rows, width, embedding_table=table)
        self.dense = nn.Dense(width, len(CLASSES))
        self.dense.weight.set_data(mindspore.Tensor(weight.astype(np.float32)))
        self.dense.bias.set_data(mindspore.Tensor(np.zeros(len(CLASSES), np.float32)))
        self.sum = ops.ReduceSum()

    def construct(self, words, shares):
        # Each row's gradient is one product, shares x gradient of the mean, so there is nothing
        # that the two kinds of gradients could round differently before a word's are summed.
        return self.dense(self.sum(self.lookup(words) * shares.expand_dims(-1), 1))


class TextStep(nn.Cell):
    """One whole step: loss, gradients and update. In graph mode it is one compiled graph.

    Args:
        model: A `BagOfWords`.
        optimizer: Updates its parameters.
        follower: Is given the same gradients, for parameters of its own.
    """

    def __init__(
        self, model: nn.Cell, optimizer: nn.Optimizer, follower: Optional[nn.Optimizer] = None
    ):
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.follower = follower
        # With this loss both modes compute the same bits, with nn.CrossEntropyLoss they do not.
        self.loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
        self.value_and_grad = mindspore.value_and_grad(self.forward, None, optimizer.parameters)

    def forward(self, words, shares, labels):
        return self.loss(self.model(words, shares), labels)

    def construct(self, words, shares, labels):
        loss, gradients = self.value_and_grad(words, shares, labels)
        if self.follower is not None:
            loss = ops.depend(loss, self.follower(gradients))
        return ops.depend(loss, self.optimizer(gradients))
