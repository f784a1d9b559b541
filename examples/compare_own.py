"""Compare two trainings of your own: a pattern for your script.

    ms-adam compare configs/compare_own.yaml --out runs/compare_own

The config names `make` under `factory`. It returns the network, the loss and the data, without a
loop. ms-adam calls it in the process of each side, after it has set that side's mode, as

    make(seed=..., batch_size=..., **factory_options, **changes of the side)

and trains step by step: `loss_fn(network(inputs), targets)`, where inputs and targets are one
batch: arrays, Tensors, or tuples of them, which become separate arguments.

The same seed must give the same batches in the same order. Weights need no seed: all sides start
with those of the first one. The loss is one number. Code that graph mode compiles must be in a
file, because MindSpore reads its source.
"""

import numpy as np
from mindspore import nn, ops

import ms_adam


class ScaledLoss(nn.Cell):
    """Mean square error times a factor, the change that the comparison must find."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def construct(self, outputs, targets):
        return self.factor * ops.mean((outputs - targets) ** 2)


def make(seed, batch_size, *, inputs=8, units=16, batches=10, loss_factor=1.0):
    """Returns a network, its loss, and a list of batches that is repeated when it ends."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((batches, batch_size, inputs)).astype(np.float32)
    y = np.sin(x.sum(axis=2, keepdims=True))
    network = nn.SequentialCell(
        nn.Dense(inputs, units), nn.LayerNorm([units]), nn.Tanh(), nn.Dense(units, 1)
    )
    return network, ScaledLoss(loss_factor), list(zip(x, y))


def decay_of_matrices(params, **options):
    """Returns an optimizer that decays matrices but not biases and normalization.

    A config names it in the place of a class: ``optimizer: compare_own:decay_of_matrices``.
    """
    matrices = [parameter for parameter in params if parameter.ndim > 1]
    others = [parameter for parameter in params if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return ms_adam.AdamW(groups, **options)
