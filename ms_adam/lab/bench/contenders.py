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
            return Torch(build, case)
        if self.way == "torch tail":
            return TorchTail(build, case, self.averages)
        import mindspore as ms

        from ms_adam.lab.bench import steps

        if self.way in ("graph", "pynative"):
            mode = ms.GRAPH_MODE if self.way == "graph" else ms.PYNATIVE_MODE
            return steps.Called(build, case, mode, self.dtype)
        if self.way == "scaler":
            build = functools.partial(build, loss_scale=steps.loss_scaler())
        if self.way == "operators":
            tail = functools.partial(steps.TailStep, averages=self.averages)
            return steps.compiled(build, case, self.dtype, tail)
        if case.rows and self.rows:
            return steps.compiled_rows(build, case)
        return steps.compiled(build, case, self.dtype)


class Timed:
    """A step to be timed. A subclass has `step` and `state_bytes`."""

    device_target = "CPU"
    state_on = "CPU"  # the device whose memory the state takes

    def compile(self) -> None:
        """Compiles the step, if it is a graph."""

    def empty_step(self) -> None:
        """Costs the call of a step."""


class Torch(Timed):
    """A step of an optimizer of torch."""

    def __init__(self, build, case: Case):
        import torch

        self.model = torch.nn.ParameterList()
        for weight, gradient in values(case):
            self.model.append(torch.from_numpy(weight))
            self.model[-1].grad = torch.from_numpy(gradient)
        self.optimizer = build(list(self.model))
        self.step, self.state_bytes = self.optimizer.optimizer.step, self.optimizer.state_bytes


class TorchTail(Torch):
    """GradScaler, clip_grad_norm_ and an average of swa_utils around a step of torch."""

    def __init__(self, build, case: Case, averages: bool):
        import torch
        from torch.optim import swa_utils

        super().__init__(build, case)
        window = {"growth_interval": SCALE_WINDOW}
        scaler = torch.amp.GradScaler("cpu", init_scale=LOSS_SCALE, **window)
        scaler.scale(torch.ones(()))  # it begins with the first loss
        average = swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
        model, optimizer = self.model, self.optimizer
        averaged = swa_utils.AveragedModel(model, multi_avg_fn=average) if averages else None

        def step() -> None:
            scaler.unscale_(optimizer.optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            scaler.step(optimizer.optimizer)
            scaler.update()
            if averaged is not None:
                averaged.update_parameters(model)

        def state_bytes() -> int:
            averages = () if averaged is None else averaged.parameters()
            return optimizer.state_bytes() + sum(4 * average.numel() for average in averages)

        self.step, self.state_bytes = step, state_bytes


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


_NN, _FUSED, _LAZY = "mindspore.nn.Adam", {"backend": "fused"}, {"use_lazy": True}
_CLIP = {**_FUSED, "max_grad_norm": MAX_GRAD_NORM}
_ACCUMULATE = {**_FUSED, "accumulate_steps": 2**31 - 1}  # it never comes to an update
_AVERAGE = {"ema_decay": EMA_DECAY}
_NN_TAIL = Contender(_NN, most_parameters=_RARE, way="operators")
_TORCH_TAIL = Contender("torch.optim.AdamW", {"fused": True}, way="torch tail")

# In each table the important ones first: where memory is small the last ones are left out.
_COMPILED = {
    "nn.Adam": Contender(_NN),
    "fused": Contender(options=_FUSED),
    "fused, flat state": Contender(options={"flat_state": True}),
    "memory limit": Contender("", way="memory"),
    "torch fused": Contender("torch.optim.Adam", {"fused": True}, way="torch"),
    "fused, bfloat16": Contender(options=_FUSED, dtype="bfloat16"),
    "AdamW fused": Contender("ms_adam.AdamW", _FUSED),
    "nn.AdamWeightDecay": Contender("mindspore.nn.AdamWeightDecay", most_parameters=_RARE),
    "primitive": Contender(options={"backend": "primitive"}),
    "composite": Contender(options={"backend": "composite"}, most_parameters=_RARE),
    "composite, flat state": Contender(options={"backend": "composite", "flat_state": True}),
    "experimental.optim.Adam": Contender("mindspore.experimental.optim.Adam", most_parameters=50),
    "fused, lazy": Contender(options=_LAZY, rows=True),
    "nn.Adam, lazy": Contender(_NN, _LAZY, rows=True),
    "fused, offload": Contender(options={"use_offload": True, **_FUSED}),
}
_CALLED = {
    "called, PyNative": Contender(way="pynative"),
    "called, graph mode": Contender(way="graph"),
    "nn.Adam called, PyNative": Contender(_NN, way="pynative"),
    "nn.Adam called, graph mode": Contender(_NN, way="graph"),
}
_TAILS = {
    "nn.Adam, tail": _NN_TAIL,
    "nn.Adam, tail, EMA": _NN_TAIL._replace(averages=True),
    "tail": Contender(options=_CLIP, way="scaler"),
    "tail, EMA": Contender(options={**_CLIP, **_AVERAGE}, way="scaler"),
    "torch, tail": _TORCH_TAIL,
    "torch, tail, EMA": _TORCH_TAIL._replace(averages=True),
    "fused, clipped": Contender(options=_CLIP),
    "fused, clipped, finite": Contender(options={**_CLIP, "skip_nonfinite": True}),
    "fused, EMA": Contender(options={**_FUSED, **_AVERAGE}),
    "fused, accumulating": Contender(options=_ACCUMULATE),
    "called, accumulating": Contender(options=_ACCUMULATE, way="pynative"),
}
_INT8, _SPLIT = {"state_dtype": "int8"}, {"master_weights": "split"}
_NARROW = {
    "bfloat16 state": Contender(options={**_FUSED, "state_dtype": "bfloat16"}),
    "int8 state": Contender(options={**_FUSED, **_INT8}),
    "master weights": Contender(options={**_FUSED, "master_weights": True}, dtype="bfloat16"),
    "split": Contender(options={**_FUSED, **_SPLIT}, dtype="bfloat16"),
    "int8 state, split": Contender(options={**_FUSED, **_INT8, **_SPLIT}, dtype="bfloat16"),
}
_NARROWS = {
    **_NARROW,
    **{f"{name}, called": one._replace(way="pynative") for name, one in _NARROW.items()},
    "bitsandbytes, 8 bits": Contender("bitsandbytes.optim.AdamW8bit", way="torch"),
    # Tensors that its blocks do not divide stay in float32; 250 divides those of `cases.NARROW`.
    "torchao, 8 bits": Contender("torchao.optim.AdamW8bit", {"block_size": 250}, way="torch"),
    "torchao, 4 bits": Contender("torchao.optim.AdamW4bit", {"block_size": 250}, way="torch"),
}
CONTENDERS = {**_COMPILED, **_CALLED, **_TAILS, **_NARROWS}

COMPILED = tuple(_COMPILED)
EAGER = (*_CALLED, "torch fused")
TAILS = ("nn.Adam", "fused", "called, PyNative", *_TAILS)
NARROWS = ("fused", "called, PyNative", *_NARROWS)
AMONG_ROWS = ("nn.Adam", "fused", "memory limit")  # beside the lazy ones, dense on the whole table
DRAWN = ("nn.Adam", "fused", "fused, flat state", "memory limit", "torch fused")

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
