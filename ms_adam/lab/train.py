"""The training loop, and the Cell that makes one step: loss, gradients, update."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Callable, NamedTuple, Optional

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_adam.lab.targets import to_numpy


def fused_loss() -> nn.Cell:
    """Returns the mean cross-entropy of logits and class numbers over a batch.

    Its gradients have the same bits in both modes. Those of nn.CrossEntropyLoss differ in the last
    bit (MindSpore 2.10, CPU).
    """
    return nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")


class TrainStep(nn.Cell):
    """One step of training. In graph mode it is one compiled graph.

    Args:
        model: Called with the arrays of a batch; the last one goes to `loss`.
        optimizer: Updates its parameters. None: the step only computes loss and gradients.
        loss: Called with the model's outputs and the last array of the batch. None: the model takes
            the whole batch and returns the loss, with any further term such as L2.
        parameters: A ParameterTuple; needed without an optimizer.
        reducer: Called with the gradients before the update, such as nn.DistributedGradReducer.
        follower: Another optimizer with parameters of its own, given the same gradients.
        with_gradients: Whether the gradients are returned too. Always true without an optimizer.

    Outputs:
        The loss before the update, or (loss, gradients).
    """

    def __init__(
        self,
        model: nn.Cell,
        optimizer: Optional[nn.Cell],
        loss: Optional[Callable] = None,
        *,
        parameters=None,
        reducer: Optional[nn.Cell] = None,
        follower: Optional[nn.Cell] = None,
        with_gradients: bool = False,
    ):
        super().__init__()
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.reducer, self.follower = reducer, follower
        self.with_gradients = with_gradients or optimizer is None
        wanted = parameters if optimizer is None else optimizer.parameters
        self.value_and_grad = mindspore.value_and_grad(self.forward, None, wanted)

    def forward(self, *batch):
        if self.loss is None:
            return self.model(*batch)
        return self.loss(self.model(*batch[:-1]), batch[-1])

    def construct(self, *batch):
        loss, gradients = self.value_and_grad(*batch)
        if self.reducer is not None:
            gradients = self.reducer(gradients)
        if self.follower is not None:
            loss = ops.depend(loss, self.follower(gradients))
        if self.optimizer is not None:
            loss = ops.depend(loss, self.optimizer(gradients))
        if self.with_gradients:
            return loss, gradients
        return loss


def copies(parameters: Iterable) -> list[Parameter]:
    """Returns Parameters of the same values, for a `TrainStep`'s follower."""
    return [Parameter(Tensor(to_numpy(p), p.dtype), name=f"own.{p.name}") for p in parameters]


class Step(NamedTuple):
    """One finished step, as observers see it."""

    number: int  # from 1
    batch: Sequence[np.ndarray]  # what the step was given
    loss: np.floating  # before the update
    gradients: Optional[Sequence[Tensor]]  # None if the step does not return them
    seconds: float  # from the call until the loss was there


Observer = Callable[[Step], None]


class EndOfTraining(Exception):
    """An observer raises this to end `train` after the step at hand."""


def train(
    step: Callable,
    batches: Iterable[Sequence[np.ndarray]],
    observers: Sequence[Observer],
    first: int = 0,
) -> int:
    """Makes one step for each batch, in the mode that the process is in.

    Args:
        step: A `TrainStep`, or any function of a batch's Tensors that returns the loss or (loss,
            gradients), as Tensors.
        batches: The NumPy arrays of each step. A generator can change the learning rate or draw
            noise before it yields.
        observers: Called after each step, in this order.
        first: Number of steps that were made before.

    Returns:
        The number of steps that have been made, `first` included.

    Example:
        >>> losses = Record(loss)  # doctest: +SKIP
        >>> train(step, batches.steps(0, 100), [losses])  # doctest: +SKIP
    """
    number = first
    for number, batch in enumerate(batches, first + 1):
        tensors = [Tensor.from_numpy(array) for array in batch]  # without a copy
        started = time.perf_counter()
        made = step(*tensors)
        loss, gradients = made if isinstance(made, tuple) else (made, None)
        value = loss.asnumpy().reshape(())[()]  # waits until the step is made
        done = Step(number, batch, value, gradients, time.perf_counter() - started)
        try:
            for observer in observers:
                observer(done)
        except EndOfTraining:
            break
    return number
