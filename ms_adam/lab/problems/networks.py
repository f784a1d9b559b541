"""The models that are trained. Their first weights come from NumPy, so that every run of one seed,
in either mode and on any version of MindSpore, starts from the same arrays."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore
import numpy as np
from mindspore import nn


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
            dense = nn.Dense(inputs, units)
            dense.weight.set_data(mindspore.Tensor(weight.astype(np.float32)))
            dense.bias.set_data(mindspore.Tensor(np.zeros(units, np.float32)))
            layers += [dense, nn.ReLU()]
        self.layers = nn.SequentialCell(layers[:-1])

    def construct(self, images):
        return self.layers(images)
