"""Run by test_tail.py on two ranks: shares of averages give the bits of whole ones, and skip alike.

Each rank prints "agreed: <names of the cases>".
"""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, amp, communication

import ms_adam

communication.init()
rank = communication.get_rank()
ms.set_auto_parallel_context(parallel_mode="data_parallel", gradients_mean=True, device_num=2)

CASES = {
    "fused": {"backend": "fused"},
    "flat": {"flat_state": True},
    "masters": {"master_weights": True, "dtype": ms.bfloat16},
    "halves": {"master_weights": "split", "state_dtype": "bfloat16", "dtype": ms.bfloat16},
    "int8": {"state_dtype": "int8"},
    "composite": {"backend": "composite"},
    "sums": {"accumulate_steps": 2, "max_grad_norm": 0.1},
    "sums of composite": {"accumulate_steps": 2, "backend": "composite", "max_grad_norm": 0.1},
}


def make(dtype=ms.float32, **options):
    rng = np.random.default_rng(0)
    parameters = [
        Parameter(Tensor(rng.standard_normal(shape), ms.float32).astype(dtype), name)
        for name, shape in (("table", (7, 4)), ("bias", (5,)), ("number", ()))
    ]
    scaler = amp.DynamicLossScaler(1024, 2, 2)
    return ms_adam.Adam(parameters, 1e-2, **{"loss_scale": scaler, "ema_decay": 0.9, **options})


def shown(optimizer):
    return [parameter.astype(ms.float32).asnumpy().copy() for parameter in optimizer.parameters]


for number, (name, options) in enumerate(CASES.items()):
    ms.set_context(mode=ms.PYNATIVE_MODE if number % 2 else ms.GRAPH_MODE)
    whole, shared = make(**options), make(**options, shard_state=True)
    rng = np.random.default_rng(1)
    for step in range(5):
        gradients = [1024.0 * rng.standard_normal(p.shape) for p in whole.parameters]
        if step == 2:
            gradients[0][6, 3] = np.nan  # in the last row of the table: in the share of one rank
        for optimizer in (whole, shared):
            dtype = options.get("dtype", ms.float32)
            optimizer(tuple(Tensor(g, ms.float32).astype(dtype) for g in gradients))
    weights = shown(shared)
    with ms_adam.averaged(whole), ms_adam.averaged(shared):
        for one, other in zip(shown(whole), shown(shared)):
            np.testing.assert_array_equal(one, other, name)
        assert not any(map(np.array_equal, shown(shared), weights)), name
    for one, other, before in zip(shown(whole), shown(shared), weights):
        np.testing.assert_array_equal(one, other, name)
        np.testing.assert_array_equal(other, before, name)
    calls = options.get("accumulate_steps", 1)
    assert shared.skipped.asnumpy() == 1 and shared.update_count.asnumpy() == 4 // calls, name
    if calls > 1:  # a state in the middle of an accumulation, gathered, goes on without shards
        other = make(**options)
        gradients = [rng.standard_normal(p.shape) for p in whole.parameters]
        shared(tuple(Tensor(g, ms.float32) for g in gradients))
        assert shared.accumulated.asnumpy() == 1, name
        ms_adam.load_state(other, ms_adam.gather_state(shared))
        for parameter, value in zip(other.parameters, shown(shared)):
            parameter.set_data(Tensor(value))
        for optimizer in (shared, other):
            optimizer(tuple(Tensor(g, ms.float32) for g in gradients))
        for one, another in zip(shown(shared), shown(other)):
            np.testing.assert_array_equal(one, another, name)
        assert other.update_count.asnumpy() == 3, name
    # The share of this rank, from a file, goes on with the same bits.
    again, path = make(**options, shard_state=True), f"{number}-{rank}.ckpt"
    ms.save_checkpoint(shared, path)
    ms_adam.load_state(again, path)
    gradients = [rng.standard_normal(p.shape) for p in whole.parameters]
    for parameter, value in zip(again.parameters, shared.parameters):
        parameter.set_data(Tensor(value))
    for optimizer in (shared, again):
        for _ in range(calls):
            optimizer(tuple(Tensor(g, ms.float32) for g in gradients))
    for one, another in zip(shown(shared), shown(again)):
        np.testing.assert_array_equal(one, another, name)

# Shares without averages: these begin at the weights, also those that the other rank keeps.
old, new = make(ema_decay=None, shard_state=True), make(shard_state=True)
old(tuple(Tensor(rng.standard_normal(p.shape), ms.float32) for p in old.parameters))
ms.save_checkpoint(old, f"plain-{rank}.ckpt")
ms_adam.gather_state(old)  # waits for the other rank
ms_adam.load_state(new, [f"plain-{rank}.ckpt" for rank in (0, 1)])
with ms_adam.averaged(new):
    for one, other in zip(shown(new), shown(old)):
        np.testing.assert_array_equal(one, other)
print(f"agreed: {', '.join(CASES)}")
