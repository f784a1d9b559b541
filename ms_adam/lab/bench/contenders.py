"""Who takes part in the benchmark.

A contender is built in a process of its own for one `Case` and offers `step`, `empty_step`, which
costs what a call costs, `state_bytes`, and `state_on`, the device whose memory they take.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from ms_adam.lab.errors import UserError

LEARNING_RATE = 1e-3


class Contender(NamedTuple):
    """One that takes part.

    Attributes:
        build: function of a `Case`, called in the contender's process.
        dtype: of parameters and gradients.
        most_parameters: with more of them it compiles for minutes, and only runs if that is asked
            for.
        rows: whether it can take gradients of some rows, and is lazy then.
    """

    build: Callable
    dtype: str = "float32"
    most_parameters: int = 10_000
    rows: bool = False


def values(case, dtype="float32"):
    """Weights and gradients of normal distribution, of a size that keeps clear of subnormals."""
    rng = np.random.default_rng(0)
    for shape in case.shapes:
        yield (
            rng.standard_normal(shape, np.float32),
            0.01 * rng.standard_normal(shape, np.float32),
        )


class MindSporeStep:
    """A compiled step of a MindSpore optimizer, and a compiled step that does nothing.

    The gradients are parameters of the graph, so that all that it does is the optimizer's. Called
    from Python with gradients, an optimizer would be timed together with the handing over of
    arguments, 90 us a tensor. Gradients that the graph computes would have to be subtracted, and
    computing them costs less where nobody keeps them than where an optimizer does.
    """

    def __init__(self, case, optimizer, dtype="float32", lazy=False):
        import mindspore as ms

        from ms_adam.lab.bench import graphs

        ms.set_context(mode=ms.GRAPH_MODE)
        if case.rows and lazy:
            self._build_lazy(case, optimizer)
            return
        dtype = getattr(ms, dtype)
        weights, gradients = [], []
        for i, (weight, gradient) in enumerate(values(case)):
            weights.append(ms.Parameter(ms.Tensor(weight, dtype), name=f"weight{i}"))
            gradients.append(
                ms.Parameter(ms.Tensor(gradient, dtype), name=f"gradient{i}", requires_grad=False)
            )
        self.optimizer = optimizer(weights)
        one = ms.Tensor(1.0, ms.float32)
        self._arguments = lambda: (one,)
        self._step = graphs.Step(self.optimizer, gradients)
        self._empty = graphs.Empty()
        self.weights = weights

    def _build_lazy(self, case, optimizer):
        """A table of which other rows have a gradient in each step."""
        import mindspore as ms

        from ms_adam.lab.bench import graphs

        ((table, width),) = case.shapes
        rng = np.random.default_rng(0)
        weight = ms.Parameter(
            ms.Tensor(rng.standard_normal((table, width), np.float32)), name="table"
        )
        values = ms.Parameter(
            ms.Tensor(0.01 * rng.standard_normal((case.rows, width), np.float32)),
            name="values",
            requires_grad=False,
        )
        self.weights = [weight]
        self.optimizer = optimizer(self.weights)
        self.optimizer.target = "CPU"  # where nn.Adam sums rows that are named twice
        self._step = graphs.SparseStep(self.optimizer, values, case.shapes[0])
        self._empty = graphs.EmptySparse()
        rows = itertools.cycle(
            [ms.Tensor(rng.integers(0, table, case.rows).astype(np.int32)) for _ in range(64)]
        )
        self._arguments = lambda: (next(rows),)
        # Memory is given when it is first written to; that is no part of a step.
        for parameter in self.optimizer.get_parameters():
            parameter.asnumpy()[...] *= 1

    def step(self):
        self._step(*self._arguments()).asnumpy()

    def empty_step(self):
        self._empty(*self._arguments()).asnumpy()

    @property
    def device_target(self):
        return _device_target()

    @property
    def state_on(self):
        formula = getattr(self.optimizer, "formula", None)
        return "CPU" if getattr(formula, "on_host", False) else self.device_target

    def state_bytes(self):
        return _bytes_beside(self.weights, self.optimizer)


def _device_target():
    import mindspore as ms

    return ms.get_context("device_target")


def _bytes_beside(weights, optimizer):
    weights = {id(weight) for weight in weights}
    return sum(
        parameter.nbytes for parameter in optimizer.get_parameters() if id(parameter) not in weights
    )


class CalledStep:
    """A step of a MindSpore optimizer that Python calls, as scripts with value_and_grad do.

    The gradients are computed already. The time includes handing them over, and ends when the last
    weight can be read.
    """

    def __init__(self, case, optimizer, mode):
        import mindspore as ms

        ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
        pairs = list(values(case))
        self.weights = [
            ms.Parameter(ms.Tensor(weight), name=f"weight{i}")
            for i, (weight, _) in enumerate(pairs)
        ]
        given = [
            tuple(ms.Tensor(factor * gradient) for _, gradient in pairs)
            for factor in (np.float32(1.0), np.float32(-0.5))
        ]
        self.gradients = itertools.cycle(given)
        self.optimizer = optimizer(self.weights)

    def step(self):
        self.optimizer(next(self.gradients))
        self.weights[-1].asnumpy()

    def empty_step(self):
        self.weights[-1].asnumpy()

    @property
    def device_target(self):
        return _device_target()

    state_on = device_target

    def state_bytes(self):
        return _bytes_beside(self.weights, self.optimizer)


class TorchStep:
    """A step of torch.optim.Adam(fused=True)."""

    device_target = state_on = "CPU"

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
        return sum(
            value.numel() * value.element_size()
            for state in self.optimizer.state.values()
            for value in state.values()
        )


class MemoryLimit:
    """A loop with Adam's traffic and without its arithmetic, over one array for each stream."""

    device_target = state_on = "CPU"

    def __init__(self, case):
        from ms_adam.backends import toolchain
        from ms_adam.backends.fused import thread_count

        library = ctypes.CDLL(str(toolchain.build(Path(__file__).with_name("memory_limit.cc"))))
        streams = [np.full(case.elements, 1e-3, np.float32) for _ in range(4)]
        self.streams = streams
        self._call = lambda: library.MsAdamTraffic(
            ctypes.c_int64(case.elements),
            thread_count(),
            *(ctypes.c_void_p(stream.ctypes.data) for stream in streams),
        )

    def step(self):
        self._call()

    def empty_step(self):
        pass

    def state_bytes(self):
        return sum(stream.nbytes for stream in self.streams[2:])


def _ours(optimizer="Adam", dtype="float32", most_parameters=10_000, rows=False, **options):
    def build(case):
        import ms_adam

        make = getattr(ms_adam, optimizer)
        return MindSporeStep(
            case, lambda weights: make(weights, LEARNING_RATE, **options), dtype, lazy=rows
        )

    return Contender(build, dtype, most_parameters, rows)


def _theirs(name, most_parameters=10_000, rows=False, **options):
    def build(case):
        from mindspore import nn
        from mindspore.experimental import optim

        make = optim.Adam if name == "experimental" else getattr(nn, name)
        return MindSporeStep(
            case, lambda weights: make(weights, LEARNING_RATE, **options), lazy=rows
        )

    return Contender(build, most_parameters=most_parameters, rows=rows)


def _called(mode, optimizer):
    def build(case):
        if optimizer == "nn.Adam":
            from mindspore import nn

            make = nn.Adam
        else:
            import ms_adam

            make = ms_adam.Adam
        return CalledStep(case, lambda weights: make(weights, LEARNING_RATE), mode)

    return Contender(build)


NN_ADAM, LIMIT, TORCH = "nn.Adam", "memory limit", "torch fused"
NN_ADAMW, OUR_ADAMW = "nn.AdamWeightDecay", "AdamW fused"
FUSED, FLAT = "fused", "fused, flat state"
FUSED_BF16 = "fused, bfloat16"
LAZY, NN_LAZY, OFFLOAD = "fused, lazy", "nn.Adam, lazy", "fused, offload"
PRIMITIVE, COMPOSITE, EXPERIMENTAL = "primitive", "composite", "experimental.optim.Adam"

CALLED, CALLED_GRAPH = "called, PyNative", "called, graph mode"
NN_CALLED, NN_CALLED_GRAPH = "nn.Adam called, PyNative", "nn.Adam called, graph mode"

# The important ones first: where memory is small the last ones are left out.
CONTENDERS = {
    NN_ADAM: _theirs("Adam"),
    FUSED: _ours(backend="fused"),
    FLAT: _ours(flat_state=True),
    LIMIT: Contender(MemoryLimit),
    TORCH: Contender(TorchStep),
    FUSED_BF16: _ours(dtype="bfloat16", backend="fused"),
    OUR_ADAMW: _ours("AdamW", backend="fused"),
    NN_ADAMW: _theirs("AdamWeightDecay", 500),
    PRIMITIVE: _ours(backend="primitive"),
    COMPOSITE: _ours(backend="composite", most_parameters=500),
    EXPERIMENTAL: _theirs("experimental", 50),
    LAZY: _ours(rows=True, use_lazy=True),
    NN_LAZY: _theirs("Adam", rows=True, use_lazy=True),
    OFFLOAD: _ours(backend="fused", use_offload=True),
    CALLED: _called("pynative", "ms_adam.Adam"),
    CALLED_GRAPH: _called("graph", "ms_adam.Adam"),
    NN_CALLED: _called("pynative", "nn.Adam"),
    NN_CALLED_GRAPH: _called("graph", "nn.Adam"),
}

EAGER = (CALLED, CALLED_GRAPH, NN_CALLED, NN_CALLED_GRAPH, TORCH)
COMPILED = tuple(name for name in CONTENDERS if name not in EAGER[:4])


# With rows, those who are lazy, and dense Adam on the whole table.
AMONG_ROWS = (NN_ADAM, FUSED, LIMIT)
DRAWN = (NN_ADAM, FUSED, FLAT, LIMIT, TORCH)


def check_names(names):
    """The names of contenders, as they were given.

    Raises:
        UserError: If there is no such contender.
    """
    for name in names:
        if name not in CONTENDERS:
            raise UserError(
                f"there is no contender {name!r}; there are {', '.join(map(repr, CONTENDERS))}"
            )
    return list(names)


# Weights, gradients and moments, and what building them takes for a while.
BYTES_PER_ELEMENT = 24


def line_up(case, names, everything=False, memory=None):
    """Who can take part in a case, all at once, and who can not.

    Args:
        case: a `Case`.
        names: of contenders, the important ones first.
        everything: also those that compile for minutes.
        memory: bytes that are free; those of this machine if None.

    Returns:
        The names of those who can, and a list of reasons why others can not.
    """
    memory = _free_memory() if memory is None else memory
    chosen, reasons = [], []
    for name in names:
        memory_left = memory - BYTES_PER_ELEMENT * case.elements * (len(chosen) + 1)
        if name == TORCH and importlib.util.find_spec("torch") is None:
            reasons.append(f"{name}: torch is not installed")
        elif CONTENDERS[name].rows != bool(case.rows) and not (case.rows and name in AMONG_ROWS):
            continue  # lazy ones are for rows, rows for lazy ones
        elif len(case.shapes) > CONTENDERS[name].most_parameters and not everything:
            reasons.append(f"{name}, {case.name}: compiles for minutes (--all has it run)")
        elif memory_left < 0:
            reasons.append(
                f"{name}, {case.name}: memory is too small for all at once (--contender chooses)"
            )
        else:
            chosen.append(name)
    return tuple(chosen), reasons


def _free_memory():
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/meminfo has no MemAvailable")
