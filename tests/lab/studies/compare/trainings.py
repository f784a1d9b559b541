"""A small training for the table of pairs, and the faults that are planted in it.

Faults of the network and the data are arguments of `make`, those of an optimizer are of `faulty`.
Steps are counted from 1. What has state or a count runs in PyNative mode only.
"""

import os
import signal

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

import ms_adam
from ms_adam.checkpoint import core_of
from ms_adam.state import write

ROWS, UNITS, CLASSES, IDS = 10, 5, 3, 3
TABLE, WEIGHT, BIAS = "table", "hidden.weight", "hidden.bias"
LAST, LAST_BIAS = "last.weight", "last.bias"


class Network(nn.Cell):
    """Rows of a table, averaged, and two dense layers.

    Args:
        stale: In this step the forward pass takes the weight of the hidden layer that was before
            the last update.
        ranks: The batch goes through in so many shares.
    """

    def __init__(self, stale=0, ranks=1):
        super().__init__()
        self.ranks = ranks
        shapes = {
            TABLE: (ROWS, UNITS),
            WEIGHT: (UNITS, UNITS),
            BIAS: (UNITS,),
            LAST: (CLASSES, UNITS),
            LAST_BIAS: (CLASSES,),
        }
        parameters = {
            name: Parameter(Tensor(np.random.standard_normal(shape).astype(np.float32)), name)
            for name, shape in shapes.items()
        }
        self.table, self.weight, self.bias, self.last, self.last_bias = parameters.values()
        self.stale, self.calls, self.old = stale, 0, None

    def construct(self, ids):
        if self.ranks == 1:
            return self._logits(ids)
        size = ids.shape[0] // self.ranks
        return ops.concat([self._logits(ids[i * size : (i + 1) * size]) for i in range(self.ranks)])

    def _logits(self, ids):
        weight = self.weight
        if self.stale:
            weight = self._stale_weight()
        x = self.table[ids].mean(axis=1)
        x = ops.tanh(ops.matmul(x, weight.T) + self.bias)
        return ops.matmul(x, self.last.T) + self.last_bias

    def _stale_weight(self):
        now = np.array(self.weight.asnumpy())
        self.calls += 1
        shift = self.old - now if self.calls == self.stale else 0 * now
        self.old = now
        return self.weight + Tensor(shift)


class Loss(nn.Cell):
    """Cross-entropy times `scale`, of the whole batch or as the mean over its `parts`."""

    def __init__(self, scale, parts, taken, reduction):
        super().__init__()
        self.scale, self.parts, self.taken = scale, parts, taken
        self.of = nn.CrossEntropyLoss(reduction=reduction)

    def construct(self, logits, targets):
        total = 0.0
        size = targets.shape[0] // self.parts
        for i in range(self.taken):
            part = self.of(logits[i * size : (i + 1) * size], targets[i * size : (i + 1) * size])
            total = total + part / self.taken
        return self.scale * total


def make(
    seed,
    batch_size,
    *,
    scale=1.0,
    ranks=1,
    reduced=True,
    reduction="mean",
    stale=0,
    exchanged=0,
    layerwise=None,
):
    """Returns network, loss and data.

    Args:
        seed: Of the data.
        batch_size: Examples in a batch.
        scale: A loss scale.
        ranks: The gradient is the mean of the gradients of so many shares of the batch.
        reduced: Whether the gradients of all shares are averaged; else that of the first is taken.
        reduction: Of the loss over a share.
        stale: See `Network`.
        exchanged: The step that has the batch of the next one.
        layerwise: A parameter whose gradient MindSpore does not exchange among processes.
    """
    random = np.random.default_rng(seed)
    ids = random.integers(0, ROWS, (6, batch_size, IDS)).astype(np.int32)
    targets = random.integers(0, CLASSES, (6, batch_size)).astype(np.int32)
    data = list(zip(ids, targets))
    if exchanged:
        data[exchanged - 1] = data[exchanged]
    network = Network(stale, ranks)
    for parameter in network.trainable_params():
        parameter.layerwise_parallel = parameter.name == layerwise
    return network, Loss(scale, ranks, ranks if reduced else 1, reduction), data


def schedule(params, *, theirs=False, late=0, **options):
    """Returns an optimizer whose learning rate falls in each step; `late` by so many steps."""
    rates = [0.01 / (1 + max(0, step - late)) for step in range(10)]
    return (nn.Adam if theirs else ms_adam.Adam)(params, learning_rate=rates, **options)


def resumed(params, *, theirs=False, **options):
    """Returns an optimizer that has made three steps, as after a checkpoint was loaded."""
    optimizer = (nn.Adam if theirs else ms_adam.Adam)(params, **options)
    weights = list(map(_read, params))
    for _ in range(3):
        optimizer(tuple(Tensor(0.1 * weight) for weight in weights))
    for parameter, weight in zip(params, weights):
        _put(parameter, weight)
    return optimizer


def groups(params, *, decayed=(TABLE, WEIGHT, LAST), frozen=(), **options):
    """Returns an optimizer with weight decay of some parameters, and rate 0 of others."""
    made = [
        {
            "params": [p],
            "weight_decay": 0.1 if p.name in decayed else 0.0,
            "lr": 0.0 if p.name in frozen else 0.01,
        }
        for p in params
    ]
    return ms_adam.AdamW(made, **options)


def faulty(params, *, fault, at, rank=None, **options):
    """Returns an optimizer that does something wrong in step `at`, or in each if that is 0.

    Of several processes, only the one of this rank does.
    """
    wrong, kind = FAULTS[fault], ms_adam.AdamW if "weight_decay" in options else ms_adam.Adam

    class Faulty(kind):
        made = 0

        def __call__(self, gradients):
            self.made += 1
            step = super().__call__
            if at in (0, self.made) and rank in (None, int(os.environ.get("RANK_ID", 0))):
                return wrong(self, step, gradients)
            return step(gradients)

    return Faulty(params, **options)


def _read(tensor):
    return np.array(tensor.asnumpy())


def _put(parameter, values):
    write(parameter, np.asarray(values), host=False)


def _place(optimizer, name):
    """The place of a parameter, before whose name the Cell around the optimizer puts its own."""
    names = [parameter.name.endswith(name) for parameter in optimizer.parameters]
    return names.index(True)


def _of(optimizer, name):
    """The weight and both moments of a parameter."""
    place = _place(optimizer, name)
    return [group[place] for group in (optimizer.parameters, optimizer.moment1, optimizer.moment2)]


def _decay_missed(optimizer, step, gradients):
    before = list(map(_read, optimizer.parameters))
    step(gradients)
    for parameter, weight in zip(optimizer.parameters, before):
        _put(parameter, _read(parameter) + np.float32(0.01 * 0.1) * weight)


def _float16_moment(optimizer, step, gradients):
    step(gradients)
    for moment in optimizer.moment1:
        _put(moment, _read(moment).astype(np.float16).astype(np.float32))


def _moments_reset(optimizer, step, gradients):
    for moment in (*optimizer.moment1, *optimizer.moment2):
        _put(moment, 0 * _read(moment))
    step(gradients)


def _count_ahead(optimizer, step, gradients):
    core = core_of(optimizer)
    for counter in (core.global_step, core.update_count):
        _put(counter, _read(counter) + 1)
    step(gradients)


def _row_missed(optimizer, step, gradients):
    state = _of(optimizer, TABLE)
    before = list(map(_read, state))
    step(gradients)
    for tensor, old in zip(state, before):
        values = _read(tensor)
        values[2] = old[2]
        _put(tensor, values)


def _clipped_by_value(optimizer, step, gradients):
    step(tuple(ops.clamp(gradient, -0.05, 0.05) for gradient in gradients))


def _update_lost(optimizer, step, gradients):
    weight = _of(optimizer, LAST)[0]
    before = _read(weight)
    step(gradients)
    _put(weight, before)


def _gradients_exchanged(optimizer, step, gradients):
    """Two rows of the hidden layer's gradient, as a wrong sharding makes it."""
    changed = list(gradients)
    place = _place(optimizer, WEIGHT)
    changed[place] = gradients[place][::-1]
    step(tuple(changed))


def _killed(optimizer, step, gradients):
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {
    "killed": _killed,
    "decay missed": _decay_missed,
    "float16 moment": _float16_moment,
    "moments reset": _moments_reset,
    "count ahead": _count_ahead,
    "row missed": _row_missed,
    "clipped by value": _clipped_by_value,
    "update lost": _update_lost,
    "gradients exchanged": _gradients_exchanged,
}
