"""The contenders of the benchmark: optimizers, and the limit that memory sets."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ms_adam.lab.bench.cases import Case
from ms_adam.lab.errors import UserError
from ms_adam.lab.targets import find

LEARNING_RATE = 1e-3

# The tail of a step. torch takes the loss scale out of the gradients in place: another one than 1
# would shrink them from step to step. What it costs does not depend on the scale.
LOSS_SCALE, SCALE_WINDOW, MAX_GRAD_NORM, EMA_DECAY = 1.0, 1_000_000, 1.0, 0.999

_RARE = 500  # parameters, with more of which a contender of many operators compiles for minutes


class Contender(NamedTuple):
    """One contender."""

    target: str = "ms_adam.Adam"
    options: dict[str, Any] = {}
    dtype: str = "float32"  # of parameters and gradients
    most_parameters: int = 10_000  # with more it compiles for minutes, and runs only on request
    rows: bool = False  # whether it can take gradients of some rows, and is lazy then
    # "compiled"; "scaler", the same with a loss scaler; "operators", the same with the tail around
    # it; called from Python, "graph" or "pynative"; "torch" or "torch tail"; "memory".
    way: str = "compiled"
    averages: bool = False  # whether a tail around the optimizer averages the weights

    @property
    def uses_torch(self) -> bool:
        return "torch" in self.way

    @property
    def package(self) -> str:
        """The package that the optimizer is of."""
        return self.target.partition(".")[0]

    @property
    def is_foreign(self) -> bool:
        """Whether it may be missing, or refuse this machine, while the others are timed."""
        return self.package in ("bitsandbytes", "torchao")

    def build(self, case: Case) -> Any:
        """Builds it for a case, in its process: a `Timed`."""
        if self.way == "memory":
            return MemoryLimit(case)
        target = find(self.target, self.options)

        def build(weights, **values):
            return target.build(weights, learning_rate=LEARNING_RATE, **values)

        if self.way == "torch":
            return TorchStep(build, case)
        if self.way == "torch tail":
            return TorchTail(build, case, self.averages)
        import mindspore as ms

        from ms_adam.lab.bench import steps

        if self.way in ("graph", "pynative"):
            mode = ms.GRAPH_MODE if self.way == "graph" else ms.PYNATIVE_MODE
            return steps.Called(build, case, mode, self.dtype)
        if self.way == "operators":
            return steps.OperatorTail(build, case, self.averages)
        if self.way == "scaler":
            build = functools.partial(build, loss_scale=steps.loss_scaler())
        form = steps.CompiledRows if case.rows and self.rows else steps.Compiled
        return form(build, case, self.dtype)


class Timed:
    """A step to be timed. A subclass has `step` and `state_bytes`."""

    device_target = "CPU"
    state_on = "CPU"  # the device whose memory the state takes

    def compile(self) -> None:
        """Compiles the step, if it is a graph."""

    def empty_step(self) -> None:
        """Costs the call of a step."""


class TorchStep(Timed):
    """A step of an optimizer of torch."""

    def __init__(self, build, case: Case):
        import torch

        weights = []
        for weight, gradient in values(case):
            weights.append(torch.nn.Parameter(torch.from_numpy(weight)))
            weights[-1].grad = torch.from_numpy(gradient)
        optimizer = build(weights)
        self.step, self.state_bytes = optimizer.optimizer.step, optimizer.state_bytes


class TorchTail(Timed):
    """GradScaler, clip_grad_norm_ and an average of swa_utils around a step of torch."""

    def __init__(self, build, case: Case, averages: bool):
        import torch
        from torch.optim import swa_utils

        model = torch.nn.ParameterList(torch.from_numpy(weight) for weight, _ in values(case))
        for weight, (_, gradient) in zip(model, values(case)):
            weight.grad = torch.from_numpy(gradient)
        self._model, self._optimizer = model, build(model)
        window = {"growth_interval": SCALE_WINDOW}
        self._scaler = torch.amp.GradScaler("cpu", init_scale=LOSS_SCALE, **window)
        self._scaler.scale(torch.ones(()))  # it begins with the first loss
        self._clip = torch.nn.utils.clip_grad_norm_
        average = swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
        self._averages = None
        if averages:
            self._averages = swa_utils.AveragedModel(model, multi_avg_fn=average)

    def step(self) -> None:
        self._scaler.unscale_(self._optimizer.optimizer)
        self._clip(self._model.parameters(), MAX_GRAD_NORM)
        self._scaler.step(self._optimizer.optimizer)
        self._scaler.update()
        if self._averages is not None:
            self._averages.update_parameters(self._model)

    def state_bytes(self) -> int:
        averages = () if self._averages is None else self._averages.parameters()
        return self._optimizer.state_bytes() + sum(4 * average.numel() for average in averages)


class MemoryLimit(Timed):
    """A loop with Adam's traffic and without its arithmetic, over one array for each stream."""

    def __init__(self, case: Case):
        from ms_adam.backends import toolchain
        from ms_adam.backends.fused import thread_count

        library = ctypes.CDLL(str(toolchain.build(Path(__file__).with_name("memory_limit.cc"))))
        self._streams = [np.full(case.elements, 1e-3, np.float32) for _ in range(4)]
        self.step = lambda: library.MsAdamTraffic(
            ctypes.c_int64(case.elements),
            thread_count(),
            *(ctypes.c_void_p(stream.ctypes.data) for stream in self._streams),
        )

    def state_bytes(self) -> int:
        return sum(stream.nbytes for stream in self._streams[2:])


def values(case: Case) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights and gradients of normal distribution, of a size that keeps clear of subnormals."""
    rng = np.random.default_rng(0)
    for shape in case.shapes:
        weight, gradient = (rng.standard_normal(shape, np.float32) for _ in range(2))
        yield weight, 0.01 * gradient


NN_ADAM, LIMIT, TORCH = "nn.Adam", "memory limit", "torch fused"
NN_ADAMW, OUR_ADAMW = "nn.AdamWeightDecay", "AdamW fused"
FUSED, FLAT = "fused", "fused, flat state"
FUSED_BF16 = "fused, bfloat16"
LAZY, NN_LAZY, OFFLOAD = "fused, lazy", "nn.Adam, lazy", "fused, offload"
PRIMITIVE, COMPOSITE, EXPERIMENTAL = "primitive", "composite", "experimental.optim.Adam"
FLAT_COMPOSITE = "composite, flat state"

CALLED, CALLED_GRAPH = "called, PyNative", "called, graph mode"
NN_CALLED, NN_CALLED_GRAPH = "nn.Adam called, PyNative", "nn.Adam called, graph mode"

TAIL, TAIL_EMA = "tail", "tail, EMA"
NN_TAIL, NN_TAIL_EMA = "nn.Adam, tail", "nn.Adam, tail, EMA"
TORCH_TAIL, TORCH_TAIL_EMA = "torch, tail", "torch, tail, EMA"
CLIPPED, CLIPPED_FINITE, FUSED_EMA = "fused, clipped", "fused, clipped, finite", "fused, EMA"
ACCUMULATING, ACCUMULATING_CALLED = "fused, accumulating", "called, accumulating"

BF16, INT8 = "bfloat16 state", "int8 state"
MASTERS, SPLIT, INT8_SPLIT = "master weights", "split", "int8 state, split"
BF16_CALLED, INT8_CALLED = f"{BF16}, called", f"{INT8}, called"
MASTERS_CALLED, SPLIT_CALLED = f"{MASTERS}, called", f"{SPLIT}, called"
INT8_SPLIT_CALLED = f"{INT8_SPLIT}, called"
BITSANDBYTES, TORCHAO, TORCHAO_4 = "bitsandbytes, 8 bits", "torchao, 8 bits", "torchao, 4 bits"

_NN, _USE_FUSED, _LAZY = "mindspore.nn.Adam", {"backend": "fused"}, {"use_lazy": True}
_CLIP = {**_USE_FUSED, "max_grad_norm": MAX_GRAD_NORM}
_BF16, _INT8 = ({**_USE_FUSED, "state_dtype": dtype} for dtype in ("bfloat16", "int8"))
_MASTERS, _SPLIT = ({**_USE_FUSED, "master_weights": how} for how in (True, "split"))
_INT8_SPLIT = {**_INT8, **_SPLIT}
_ACCUMULATE = {**_USE_FUSED, "accumulate_steps": 2**31 - 1}  # it never comes to an update
_AVERAGE, _TORCH_ADAMW = {"ema_decay": EMA_DECAY}, ("torch.optim.AdamW", {"fused": True})

# The important ones first: where memory is small the last ones are left out.
CONTENDERS = {
    NN_ADAM: Contender(_NN),
    FUSED: Contender(options=_USE_FUSED),
    FLAT: Contender(options={"flat_state": True}),
    LIMIT: Contender("", way="memory"),
    TORCH: Contender("torch.optim.Adam", {"fused": True}, way="torch"),
    FUSED_BF16: Contender(options=_USE_FUSED, dtype="bfloat16"),
    OUR_ADAMW: Contender("ms_adam.AdamW", _USE_FUSED),
    NN_ADAMW: Contender("mindspore.nn.AdamWeightDecay", most_parameters=_RARE),
    PRIMITIVE: Contender(options={"backend": "primitive"}),
    COMPOSITE: Contender(options={"backend": "composite"}, most_parameters=_RARE),
    FLAT_COMPOSITE: Contender(options={"backend": "composite", "flat_state": True}),
    EXPERIMENTAL: Contender("mindspore.experimental.optim.Adam", most_parameters=50),
    LAZY: Contender(options=_LAZY, rows=True),
    NN_LAZY: Contender(_NN, _LAZY, rows=True),
    OFFLOAD: Contender(options={"use_offload": True, **_USE_FUSED}),
    CALLED: Contender(way="pynative"),
    CALLED_GRAPH: Contender(way="graph"),
    NN_CALLED: Contender(_NN, way="pynative"),
    NN_CALLED_GRAPH: Contender(_NN, way="graph"),
    NN_TAIL: Contender(_NN, most_parameters=_RARE, way="operators"),
    NN_TAIL_EMA: Contender(_NN, most_parameters=_RARE, way="operators", averages=True),
    TAIL: Contender(options=_CLIP, way="scaler"),
    TAIL_EMA: Contender(options={**_CLIP, **_AVERAGE}, way="scaler"),
    TORCH_TAIL: Contender(*_TORCH_ADAMW, way="torch tail"),
    TORCH_TAIL_EMA: Contender(*_TORCH_ADAMW, way="torch tail", averages=True),
    CLIPPED: Contender(options=_CLIP),
    CLIPPED_FINITE: Contender(options={**_CLIP, "skip_nonfinite": True}),
    FUSED_EMA: Contender(options={**_USE_FUSED, **_AVERAGE}),
    ACCUMULATING: Contender(options=_ACCUMULATE),
    ACCUMULATING_CALLED: Contender(options=_ACCUMULATE, way="pynative"),
    BF16: Contender(options=_BF16),
    INT8: Contender(options=_INT8),
    MASTERS: Contender(options=_MASTERS, dtype="bfloat16"),
    SPLIT: Contender(options=_SPLIT, dtype="bfloat16"),
    INT8_SPLIT: Contender(options=_INT8_SPLIT, dtype="bfloat16"),
    BF16_CALLED: Contender(options=_BF16, way="pynative"),
    INT8_CALLED: Contender(options=_INT8, way="pynative"),
    MASTERS_CALLED: Contender(options=_MASTERS, dtype="bfloat16", way="pynative"),
    SPLIT_CALLED: Contender(options=_SPLIT, dtype="bfloat16", way="pynative"),
    INT8_SPLIT_CALLED: Contender(options=_INT8_SPLIT, dtype="bfloat16", way="pynative"),
    BITSANDBYTES: Contender("bitsandbytes.optim.AdamW8bit", way="torch"),
    # Tensors that its blocks do not divide stay in float32; 250 divides those of `cases.NARROW`.
    TORCHAO: Contender("torchao.optim.AdamW8bit", {"block_size": 250}, way="torch"),
    TORCHAO_4: Contender("torchao.optim.AdamW4bit", {"block_size": 250}, way="torch"),
}

EAGER = (CALLED, CALLED_GRAPH, NN_CALLED, NN_CALLED_GRAPH, TORCH)
_NAMES = tuple(CONTENDERS)
TAILS = (NN_ADAM, FUSED, CALLED, *_NAMES[_NAMES.index(NN_TAIL) : _NAMES.index(BF16)])
NARROWS = (FUSED, CALLED, *_NAMES[_NAMES.index(BF16) :])
COMPILED = _NAMES[: _NAMES.index(CALLED)]
AMONG_ROWS = (NN_ADAM, FUSED, LIMIT)  # beside the lazy ones, dense Adam on the whole table
DRAWN = (NN_ADAM, FUSED, FLAT, LIMIT, TORCH)

# Weights, gradients and moments, and what building them takes for a while.
BYTES_PER_ELEMENT = 24


def check_names(names: Iterable[str]) -> list[str]:
    """Returns the names; raises UserError if one is no contender's."""
    for name in names:
        if name not in CONTENDERS:
            raise UserError(
                f"there is no contender {name!r}; there are {', '.join(map(repr, CONTENDERS))}"
            )
    return list(names)


def line_up(
    case: Case, names: Iterable[str], everything: bool = False, memory: Optional[float] = None
) -> tuple[tuple[str, ...], list[str]]:
    """The contenders that can take part in a case, all at once, and why others cannot.

    The names come with the important ones first. `everything` takes those too that compile for
    minutes. `memory` is the free bytes, those of this machine if None.
    """
    memory = memory_of("/proc/meminfo", "MemAvailable") if memory is None else memory
    chosen, reasons = [], []
    for name in names:
        contender = CONTENDERS[name]
        memory_left = memory - BYTES_PER_ELEMENT * case.elements * (len(chosen) + 1)
        missing = [
            package
            for package in (("torch", contender.package) if contender.uses_torch else ())
            if importlib.util.find_spec(package) is None
        ]
        if missing:
            reasons.append(f"{name}: {missing[0]} is not installed")
        elif contender.rows != bool(case.rows) and not (case.rows and name in AMONG_ROWS):
            continue  # lazy ones are for rows, rows for lazy ones
        elif len(case.shapes) > contender.most_parameters and not everything:
            reasons.append(f"{name}, {case.name}: compiles for minutes (--all has it run)")
        elif memory_left < 0:
            why = "memory is too small for all at once (--contender chooses)"
            reasons.append(f"{name}, {case.name}: {why}")
        else:
            chosen.append(name)
    return tuple(chosen), reasons


def memory_of(file: str, field: str) -> int:
    """A figure of a file in /proc, in bytes."""
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"{file} has no {field}")
