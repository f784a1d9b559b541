"""Train float16 weights without losing small updates.

    python examples/mixed_precision.py

A float16 weight of 1 cannot move by less than 5e-4, so steps of 1e-4 are lost. With
`master_weights=True` the optimizer updates a float32 copy, and the weight is its rounding.
`loss_scale` divides the gradients by the factor that keeps them from vanishing in float16.
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

import ms_adam

SCALE = 1024.0
STEPS = 100


class Gain(nn.Cell):
    """Multiplies its input by one weight for each column."""

    def __init__(self):
        super().__init__()
        self.gain = Parameter(Tensor(np.ones(16), ms.float16), name="gain")

    def construct(self, x):
        return self.gain * x


def train(master_weights):
    """Trains towards gains of 0.5 in steps of 1e-4; returns the mean gain."""
    network = Gain()
    optimizer = ms_adam.Adam(
        network.trainable_params(),
        learning_rate=1e-4,
        loss_scale=SCALE,
        master_weights=master_weights,
    )

    def scaled_loss(x):
        error = (network(x) - ops.cast(0.5, ms.float16) * x).astype(ms.float32)
        return SCALE * (error**2).mean()

    value_and_grad = ms.value_and_grad(scaled_loss, None, optimizer.parameters)
    x = ops.ones((4, 16), ms.float16)
    for _ in range(STEPS):
        _, gradients = value_and_grad(x)
        optimizer(gradients)
    return float(network.gain.astype(ms.float32).mean())


for master_weights in (False, True):
    print(f"master_weights={master_weights}: mean gain {train(master_weights):.4f}")
