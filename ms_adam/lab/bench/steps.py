"""The timed steps of MindSpore optimizers, and the graphs that they compile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, amp, nn, ops
from mindspore.common.sparse_tensor import RowTensorInner

from ms_adam.lab.bench.cases import Case
from ms_adam.lab.bench.contenders import (
    EMA_DECAY,
    LOSS_SCALE,
    MAX_GRAD_NORM,
    SCALE_WINDOW,
    Timed,
    values,
)
from ms_adam.lab.targets import to_numpy

_average = ops.MultitypeFuncGraph("average")


@_average.register("Tensor", "Tensor", "Tensor")
def _average_one(decay, average, weight):
    return ops.assign(average, average * decay + weight * (1 - decay))


def loss_scaler() -> amp.LossScaler:
    """Returns the loss scaler of a tail."""
    return amp.DynamicLossScaler(LOSS_SCALE, 2, SCALE_WINDOW)


class Step(nn.Cell):
    """One step of an optimizer with gradients that are parameters of the graph."""

    def __init__(self, optimizer, gradients):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.gradients = ParameterTuple(gradients)

    def construct(self, x):
        self.optimizer(self.gradients)
        return x + 1


class TailStep(Step):
    """The tail around a step of an optimizer, in operators of MindSpore.

    The loss scaler is used as its documentation shows, clipping is `ops.clip_by_global_norm`, and
    the average is that of MindCV's TrainStep.
    """

    def __init__(self, optimizer, gradients, averages):
        super().__init__(optimizer, gradients)
        self.scaler, self.with_averages = loss_scaler(), averages
        self.weights = optimizer.parameters
        self.averages = self.weights.clone("average") if averages else ()
        self.decay, self.map_ = Tensor(EMA_DECAY, ms.float32), ops.HyperMap()

    def construct(self, x):
        gradients = self.scaler.unscale(self.gradients)
        is_finite = amp.all_finite(gradients)
        if is_finite:
            self.optimizer(ops.clip_by_global_norm(gradients, MAX_GRAD_NORM))
            if self.with_averages:
                self.map_(ops.partial(_average, self.decay), self.averages, self.weights)
        self.scaler.adjust(is_finite)
        return x + 1


class RowsStep(nn.Cell):
    """One step of an optimizer of a table with a gradient for some of its rows."""

    def __init__(self, optimizer, values, shape):
        super().__init__(auto_prefix=False)
        self.optimizer, self.values, self.shape = optimizer, values, shape

    def construct(self, rows):
        self.optimizer((RowTensorInner(rows, self.values, self.shape),))
        return rows + 1


class Empty(nn.Cell):
    """The same graphs without the step."""

    def construct(self, x):
        return x + 1


class MindSporeStep(Timed):
    """A step of a MindSpore optimizer."""

    def __init__(self, optimizer):
        self.optimizer, self.device_target = optimizer, ms.get_context("device_target")
        execution = getattr(optimizer.optimizer, "execution", None)  # that of ours
        self.state_on = "CPU" if execution and execution.on_host else self.device_target

    def state_bytes(self) -> int:
        return self.optimizer.state_bytes()


class Compiled(MindSporeStep):
    """A compiled step, and a compiled step that does nothing."""

    def __init__(self, optimizer, cell: nn.Cell, arguments: Iterator[Tensor]):
        super().__init__(optimizer)
        self.cell, self._empty, self._arguments = cell, Empty(), arguments

    def compile(self) -> None:
        self.cell.compile(next(self._arguments))

    def step(self) -> None:
        self.cell(next(self._arguments)).asnumpy()

    def empty_step(self) -> None:
        self._empty(next(self._arguments)).asnumpy()

    def state_bytes(self) -> int:
        averages = getattr(self.cell, "averages", ())
        return super().state_bytes() + sum(average.nbytes for average in averages)


def compiled(build, case: Case, dtype: str, cell: Callable = Step) -> Compiled:
    """Returns a step in a cell of an optimizer and its gradients.

    The gradients are parameters of the graph, so that all of its time is the optimizer's. Called
    from Python with gradients, an optimizer would be timed together with the handing over of
    arguments, 90 us a tensor. Gradients that the graph computes would have to be subtracted, and
    computing them costs less where nobody keeps them than where an optimizer does.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    weights, gradients = [], []
    for i, (weight, gradient) in enumerate(values(case)):
        weights.append(_parameter(weight, f"weight{i}", dtype))
        gradients.append(_parameter(gradient, f"gradient{i}", dtype, requires_grad=False))
    optimizer = build(weights)
    step = cell(optimizer.optimizer, gradients)
    return Compiled(optimizer, step, itertools.repeat(Tensor(1.0, ms.float32)))


def compiled_rows(build, case: Case) -> Compiled:
    """Returns a step of a table with a gradient for other rows each time."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ((table, width),) = case.shapes
    rng = np.random.default_rng(0)
    weight = _parameter(rng.standard_normal((table, width), np.float32), "table")
    gradient = 0.01 * rng.standard_normal((case.rows, width), np.float32)
    gradient = _parameter(gradient, "values", requires_grad=False)
    made = build([weight])
    optimizer = made.optimizer
    optimizer.target = "CPU"  # where nn.Adam sums rows that are named twice
    step = RowsStep(optimizer, gradient, case.shapes[0])
    rows = [Tensor(rng.integers(0, table, case.rows).astype(np.int32)) for _ in range(64)]
    # Memory is given when it is first written to; that is no part of a step.
    for parameter in optimizer.get_parameters():
        parameter.asnumpy()[...] *= 1
    return Compiled(made, step, itertools.cycle(rows))


class Called(MindSporeStep):
    """A step that Python calls, as scripts with value_and_grad do.

    The gradients are computed already. The time includes handing them over, and ends when the last
    weight can be read.
    """

    def __init__(self, build, case: Case, mode: int, dtype: str):
        ms.set_context(mode=mode)
        pairs = list(values(case))
        self._weights = [_parameter(w, f"weight{i}", dtype) for i, (w, _) in enumerate(pairs)]
        factors, kind = (np.float32(1.0), np.float32(-0.5)), getattr(ms, dtype)
        given = [tuple(Tensor(factor * g, kind) for _, g in pairs) for factor in factors]
        self._gradients = itertools.cycle(given)
        super().__init__(build(self._weights))

    def step(self) -> None:
        self.optimizer.optimizer(next(self._gradients))
        self.empty_step()

    def empty_step(self) -> None:
        to_numpy(self._weights[-1])


def _parameter(array, name, dtype="float32", **more):
    return Parameter(Tensor(array, getattr(ms, dtype)), name=name, **more)
