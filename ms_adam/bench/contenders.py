"""Who takes part in the benchmark.

A contender is built in a process of its own for one `Case` and offers `step`, `empty_step`, which
costs what a call costs, and `state_bytes`.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

LEARNING_RATE = 1e-3


class Contender(NamedTuple):
    """One that takes part.

    Attributes:
        build: function of a `Case`, called in the contender's process.
        dtype: of parameters and gradients.
        slow: not there unless it is asked for, since it compiles for minutes.
    """

    build: Callable
    dtype: str = "float32"
    slow: bool = False


def values(case, dtype="float32"):
    """Weights and gradients of normal distribution, of a size that keeps clear of subnormals."""
    rng = np.random.default_rng(0)
    for shape in case.shapes:
        yield (rng.standard_normal(shape, np.float32),
               0.01 * rng.standard_normal(shape, np.float32))


class MindSporeStep:
    """A compiled step of a MindSpore optimizer, and a compiled step that does nothing.

    The gradients are parameters of the graph, so that all that it does is the optimizer's. Called
    from Python with gradients, an optimizer would be timed together with the handing over of
    arguments, which takes 90 us a tensor.
    """

    def __init__(self, case, optimizer, dtype="float32"):
        import mindspore as ms

        from ms_adam.bench import graphs

        ms.set_context(mode=ms.GRAPH_MODE)
        dtype = getattr(ms, dtype)
        weights, gradients = [], []
        for i, (weight, gradient) in enumerate(values(case)):
            weights.append(ms.Parameter(ms.Tensor(weight, dtype), name=f"weight{i}"))
            gradients.append(ms.Parameter(ms.Tensor(gradient, dtype), name=f"gradient{i}",
                                          requires_grad=False))
        self.optimizer = optimizer(weights)
        self.argument = ms.Tensor(1.0, ms.float32)
        self._step = graphs.Step(self.optimizer, gradients)
        self._empty = graphs.Empty()
        self.weights = weights

    def step(self):
        self._step(self.argument).asnumpy()

    def empty_step(self):
        self._empty(self.argument).asnumpy()

    def state_bytes(self):
        weights = {id(weight) for weight in self.weights}
        return sum(p.asnumpy().nbytes if p.dtype.__str__() != "BFloat16" else 2 * p.size
                   for p in self.optimizer.get_parameters() if id(p) not in weights and p.size)


class TorchStep:
    """A step of torch.optim.Adam(fused=True)."""

    def __init__(self, case):
        import torch

        weights = []
        for weight, gradient in values(case):
            weights.append(torch.nn.Parameter(torch.from_numpy(weight)))
            weights[-1].grad = torch.from_numpy(gradient)
        self.optimizer = torch.optim.Adam(weights, LEARNING_RATE, fused=True)

    def step(self):
        self.optimizer.step()

    def empty_step(self):
        pass

    def state_bytes(self):
        return sum(value.numel() * value.element_size()
                   for state in self.optimizer.state.values() for value in state.values())


class MemoryLimit:
    """A loop with Adam's traffic and without its arithmetic, over one array for each stream."""

    def __init__(self, case):
        from ms_adam.backends import toolchain
        from ms_adam.backends.fused import thread_count

        library = ctypes.CDLL(str(toolchain.build(Path(__file__).with_name("memory_limit.cc"))))
        streams = [np.full(case.elements, 1e-3, np.float32) for _ in range(4)]
        self.streams = streams
        self._call = lambda: library.MsAdamTraffic(
            ctypes.c_int64(case.elements), thread_count(),
            *(ctypes.c_void_p(stream.ctypes.data) for stream in streams))

    def step(self):
        self._call()

    def empty_step(self):
        pass

    def state_bytes(self):
        return sum(stream.nbytes for stream in self.streams[2:])


def _ours(optimizer="Adam", dtype="float32", **options):
    def build(case):
        import ms_adam
        make = getattr(ms_adam, optimizer)
        return MindSporeStep(case, lambda weights: make(weights, LEARNING_RATE, **options), dtype)
    return Contender(build, dtype)


def _theirs(name, slow=False):
    def build(case):
        from mindspore import nn
        from mindspore.experimental import optim
        make = optim.Adam if name == "experimental" else getattr(nn, name)
        return MindSporeStep(case, lambda weights: make(weights, LEARNING_RATE))
    return Contender(build, slow=slow)


NN_ADAM, LIMIT, TORCH = "nn.Adam", "memory limit", "torch fused"
NN_ADAMW, OUR_ADAMW = "nn.AdamWeightDecay", "AdamW fused"
FUSED, FLAT = "fused", "fused, flat state"
FUSED_BF16 = "fused, bfloat16"

CONTENDERS = {
    FUSED: _ours(backend="fused"),
    FLAT: _ours(flat_state=True),
    FUSED_BF16: _ours(dtype="bfloat16", backend="fused"),
    "primitive": _ours(backend="primitive"),
    "composite": _ours(backend="composite"),
    OUR_ADAMW: _ours("AdamW", backend="fused"),
    NN_ADAM: _theirs("Adam"),
    NN_ADAMW: _theirs("AdamWeightDecay"),
    "experimental.optim.Adam": _theirs("experimental", slow=True),
    TORCH: Contender(TorchStep),
    LIMIT: Contender(MemoryLimit),
}


def available(name: str) -> bool:
    """Whether a contender can take part here."""
    return name != TORCH or importlib.util.find_spec("torch") is not None
