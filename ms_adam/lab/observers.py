"""Observers of a training: what is measured and written after its steps.

An observer is any function of a `train.Step`. `Record` keeps what such functions return.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional

import numpy as np

from ms_adam import reference
from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.measure import relative_distance
from ms_adam.lab.run.checkpoints import CheckpointFiles
from ms_adam.lab.targets import NumpyOptimizer
from ms_adam.lab.train import Step

Measure = Callable[[Step], dict[str, Any]]


class Record:
    """Keeps measurements, one value a name and step.

    Args:
        measure: Takes a step; returns {name: value}.
        every: Measures after each such number of steps, for instance the steps of an epoch.

    Example:
        >>> record = Record(lambda step: {"loss": step.loss})
        >>> record(Step(1, (), np.float32(0.5), None, 0.1))
        >>> record.arrays()
        {'loss': array([0.5], dtype=float32)}
    """

    def __init__(self, measure: Measure, every: int = 1):
        self._measure, self._every = measure, every
        self.values: dict[str, list] = {}

    def __call__(self, step: Step) -> None:
        if step.number % self._every == 0:
            for name, value in self._measure(step).items():
                self.values.setdefault(name, []).append(value)

    def arrays(self) -> dict[str, np.ndarray]:
        """The values of each name, in the order of the steps."""
        return {name: np.array(values) for name, values in self.values.items()}


def loss(step: Step) -> dict[str, float]:
    """Measures the loss before the update."""
    return {"loss": float(step.loss)}


def step_ms(step: Step) -> dict[str, float]:
    """Measures the time of a step, in milliseconds."""
    return {"step_ms": 1e3 * step.seconds}


def refuse_infinite_loss(step: Step) -> None:
    """Raises ExperimentError if the loss is not finite."""
    if not np.isfinite(step.loss):
        raise ExperimentError(
            f"the loss of step {step.number} is {step.loss}: a smaller "
            "optimizer.learning_rate or a max_grad_norm may help"
        )


def flat(tensors: Iterable) -> np.ndarray:
    """Copies tensors into one array of one dimension.

    An array from asnumpy() may share its memory with a tensor that changes later.
    """
    return np.concatenate([tensor.asnumpy().ravel() for tensor in tensors])


def digest(array: np.ndarray) -> np.uint64:
    """Hashes an array; equal for equal bits."""
    return np.frombuffer(hashlib.blake2b(array.tobytes(), digest_size=8).digest(), np.uint64)[0]


class Shadow:
    """A float64 reference optimizer that is fed a run's own gradients.

    Two runs that differ by one rounding diverge, because each evaluates its gradients at its own
    weights. A shadow starts at the run's first parameters and takes the run's gradients, so the
    distance to it is the error of the run's optimizer only.

    Args:
        adam: The formula.
        initial: The run's first parameters, shape (n,).
    """

    def __init__(self, adam: reference.Adam, initial: np.ndarray):
        self._optimizer = NumpyOptimizer(adam, [initial])
        self._initial = initial.astype(np.float64)

    def follow(self, gradient: np.ndarray, position: np.ndarray) -> float:
        """Takes one step; returns max |position - shadow| / max |shadow - initial|.

        Args:
            gradient: What the run's optimizer was given, shape (n,).
            position: The run's parameters after its step, shape (n,).
        """
        self._optimizer.step([gradient])
        return relative_distance(position, *self._optimizer.weights(), self._initial)


@dataclasses.dataclass
class SaveCheckpoints:
    """Saves checkpoints every few steps and after the last one."""

    files: CheckpointFiles
    every: int  # steps between checkpoints
    last: int  # the number of the last step
    state: Callable[[], Optional[dict[str, Any]]]  # {name: Parameter} of model and optimizer
    description: dict[str, Any]  # of the training; see `CheckpointFiles.save`
    logs: Sequence[Any] = ()  # synced first: a checkpoint never knows a step that a log lacks

    def __call__(self, step: Step) -> None:
        if step.number % self.every and step.number != self.last:
            return
        for log in self.logs:
            log.sync()
        state = self.state()
        if state is not None:  # of several ranks, only one saves
            self.files.save(step.number, state, self.description)
