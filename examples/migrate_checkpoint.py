"""Continue a training of nn.Adam from its checkpoint.

    python examples/migrate_checkpoint.py

`load_state` reads the moments and counters, so the next step is the one that `nn.Adam` would make.
docs/migrate.md lists the optimizers whose checkpoints it reads.
"""

import tempfile
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

import ms_adam

GRADIENTS = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)


def make_weight():
    return Parameter(Tensor(np.ones(3), ms.float32), name="weight")


def train(optimizer, gradients):
    for gradient in gradients:
        optimizer((Tensor(gradient),))


weight = make_weight()
optimizer = nn.Adam([weight])
train(optimizer, GRADIENTS[:10])

with tempfile.TemporaryDirectory() as folder:
    path = str(Path(folder) / "adam.ckpt")
    ms.save_checkpoint(optimizer, path)
    continued = make_weight()
    continued.set_data(weight)
    # epsilon_hat=True: the formula that nn.Adam computes
    new = ms_adam.Adam([continued], epsilon_hat=True)
    ms_adam.load_state(new, path)

train(optimizer, GRADIENTS[10:])  # what nn.Adam would have done
train(new, GRADIENTS[10:])
difference = np.abs(weight.asnumpy() - continued.asnumpy()).max()
print(f"step {int(new.global_step)}, largest difference to nn.Adam {difference:.1e}")
