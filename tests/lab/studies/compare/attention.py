"""Networks some of whose gradients are zero in exact arithmetic, as factories of a comparison."""

import numpy as np
from mindspore import Tensor, nn, ops


class Attention(nn.Cell):
    """One self-attention between two dense layers.

    Args:
        inputs, units, heads, classes: The sizes.
        pull: Adds pull * sum(key bias) to the first logit, which gives the key bias a gradient of
            about that size: small, but genuine.
        scale: A factor on what the attention returns; a stand-in for a fault.
    """

    def __init__(self, inputs, units, heads, classes, pull, scale):
        super().__init__()
        self.units, self.heads, self.pull, self.scale = units, heads, pull, scale
        self.embed = nn.Dense(inputs, units)
        self.qkv = nn.Dense(units, 3 * units)
        self.head = nn.Dense(units, classes)
        self.first = Tensor(np.eye(classes, dtype=np.float32)[0])

    def construct(self, x):
        batch, tokens, _ = x.shape
        x = self.embed(x)
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        scores = ops.softmax(ops.matmul(parts[0], parts[1].swapaxes(-1, -2)), axis=-1)
        mixed = ops.matmul(scores, parts[2]).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)
        logits = self.head((x + self.scale * mixed).mean(axis=1))
        if self.pull:
            key_bias = self.qkv.bias[self.units : 2 * self.units]
            logits = logits + self.pull * key_bias.sum() * self.first
        return logits


class Normalized(nn.Cell):
    """A dense layer whose bias batch normalization takes out; dropout, if any, before the last."""

    def __init__(self, inputs, units, classes, keep):
        super().__init__()
        self.first = nn.Dense(inputs, units)
        self.norm = nn.BatchNorm1d(units)
        self.dropout = nn.Dropout(p=1 - keep) if keep < 1 else nn.Identity()
        self.last = nn.Dense(units, classes)

    def construct(self, x):
        return self.last(self.dropout(ops.tanh(self.norm(self.first(x)))))


def _data(seed, shape, classes, batches=4):
    random = np.random.default_rng(seed)
    x = random.standard_normal((batches, *shape)).astype(np.float32)
    return [(part, random.integers(0, classes, shape[0]).astype(np.int32)) for part in x]


def attention(seed, batch_size, *, pull=0.0, scale=1.0):
    network = Attention(6, 8, 2, 3, pull, scale)
    return network, nn.CrossEntropyLoss(), _data(seed, (batch_size, 4, 6), 3)


def normalized(seed, batch_size, *, keep=1.0):
    return Normalized(6, 5, 3, keep), nn.CrossEntropyLoss(), _data(seed, (batch_size, 6), 3)
