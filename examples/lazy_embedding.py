"""Train an embedding whose rows are rarely used.

    python examples/lazy_embedding.py

With `use_lazy=True` a row without a gradient keeps its weight and its moments, so a step costs as
much as the rows in the batch. This is not Adam: docs/formulas.md says how far it is from it.
Without `use_lazy`, rows with momentum move on in every step.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

import ms_adam

ROWS, WIDTH = 1000, 8


def train(use_lazy):
    """Looks up rows 0 to 9 in one step, then rows 10 to 19; returns the table after each step."""
    ms.set_seed(1)
    network = nn.SequentialCell(nn.Embedding(ROWS, WIDTH), nn.Dense(WIDTH, 1))
    table = network[0].embedding_table
    optimizer = ms_adam.Adam(network.trainable_params(), learning_rate=1e-2, use_lazy=use_lazy)
    value_and_grad = ms.value_and_grad(
        lambda rows: (network(rows) ** 2).mean(), None, optimizer.parameters
    )
    tables = []
    for first in (0, 10):
        _, gradients = value_and_grad(Tensor(np.arange(first, first + 10), ms.int32))
        optimizer(gradients)
        tables.append(table.asnumpy().copy())
    return tables


for use_lazy in (True, False):
    after_first, after_second = train(use_lazy)
    moved = np.flatnonzero((after_first != after_second).any(axis=1))
    print(f"use_lazy={use_lazy}: the second step moved rows {moved.min()} to {moved.max()}")
