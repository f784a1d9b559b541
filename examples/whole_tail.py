"""Scale the loss, skip overflows, clip, update and average the weights, in one launch.

    python examples/whole_tail.py

These lines stand in the place of a train-one-step cell: the optimizer reads the scaler, leaves
everything as it is if a gradient is not finite, moves the scale, clips, and averages the weights.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, amp, nn, ops

import ms_adam

rng = np.random.default_rng(0)
x = Tensor(rng.standard_normal((64, 8)), ms.float32)
y = ops.tanh(x[:, :1] - x[:, 1:2])
ms.set_seed(0)
network = nn.SequentialCell(nn.Dense(8, 16), nn.Tanh(), nn.Dense(16, 1))

scaler = amp.DynamicLossScaler(scale_value=2.0**127, scale_factor=2**4, scale_window=50)
optimizer = ms_adam.AdamW(
    network.trainable_params(), 1e-2, loss_scale=scaler, max_grad_norm=1.0, ema_decay=0.98
)


def scaled_loss(x, y):
    return scaler.scale(ops.mse_loss(network(x), y, reduction="sum"))


value_and_grad = ms.value_and_grad(scaled_loss, None, optimizer.parameters)
for _ in range(200):
    loss, gradients = value_and_grad(x, y)
    optimizer(gradients)

with ms_adam.averaged(optimizer):
    error = ops.mse_loss(network(x), y)
print(f"{int(optimizer.skipped)} steps skipped, {int(optimizer.update_count)} made")
print(f"error with averaged weights {float(error):.4f}")
