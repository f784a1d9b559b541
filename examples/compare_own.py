"""An example of a training script of your own, for ``ms-adam compare``.

    ms-adam compare configs/compare_own.yaml --out runs/compare_own

names this file's `make` under ``factory``. Take it as a pattern for yours: a function that returns
what is trained, the loss and the data, and no loop. ms-adam calls it in the process of each side,
after it has chosen that side's mode, as

    make(seed=..., batch_size=..., **factory_options, **changes of the side)

and trains what it returns step by step:

    outputs = network(inputs)       inputs and targets: one batch of the data, arrays or Tensors, or
    loss = loss_fn(outputs, target) tuples of them, which are handed over one by one

What it must keep to: the same seed gives the same batches in the same order (weights need no seed:
all sides get those of the first one), the loss is one number, and what is compiled in graph mode is
in a file, as here, since MindSpore reads its source.
"""

import numpy as np
from mindspore import nn, ops

import ms_adam


class Regression(nn.Cell):
    """Two layers with layer normalization between them."""

    def __init__(self, inputs, units):
        super().__init__()
        self.first = nn.Dense(inputs, units)
        self.norm = nn.LayerNorm([units])
        self.last = nn.Dense(units, 1)

    def construct(self, x):
        return self.last(ops.tanh(self.norm(self.first(x))))


class ScaledLoss(nn.Cell):
    """Mean square error times a factor: what a side changes to see it found."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def construct(self, outputs, targets):
        return self.factor * ops.mean((outputs - targets) ** 2)


def make(seed, batch_size, *, inputs=8, units=16, batches=10, loss_factor=1.0):
    """What is trained: a network, its loss, and a list of batches, gone through again at its end.

    Args:
        seed: decides the batches.
        batch_size: examples in each.
        inputs, units, batches, loss_factor: of this example; named in the config.
    """
    random = np.random.default_rng(seed)
    x = random.standard_normal((batches, batch_size, inputs)).astype(np.float32)
    y = np.sin(x.sum(axis=2, keepdims=True))
    return Regression(inputs, units), ScaledLoss(loss_factor), list(zip(x, y))


def decay_of_matrices(params, **options):
    """An optimizer with groups: weight decay for matrices, none for biases and normalization.

    In a config it stands where a class does: ``optimizer: compare_own:decay_of_matrices``.
    """
    matrices = [parameter for parameter in params if parameter.ndim > 1]
    others = [parameter for parameter in params if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return ms_adam.AdamW(groups, **options)
