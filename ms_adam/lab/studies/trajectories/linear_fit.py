"""A linear model of two weights on mini-batches: MindSpore, and NumPy float64 beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ms_adam.lab.run.environment import environment
from ms_adam.lab.run.results import SCHEMA
from ms_adam.lab.run.study import Progress
from ms_adam.lab.studies.trajectories.callables import MindSporeOptimizer, method_at
from ms_adam.lab.studies.trajectories.comparison import REFERENCE, compare, follow, plain, row
from ms_adam.lab.studies.trajectories.config import LinearComparison, LinearFit
from ms_adam.lab.studies.trajectories.counterparts import Counterpart, counterpart
from ms_adam.lab.studies.trajectories.through_mindspore import device_target
from ms_adam.lab.studies.trajectories.through_mindspore import fit as fit_mindspore


@dataclasses.dataclass(frozen=True)
class Points:
    """What a model is fitted to; every array holds float32 numbers, in float64.

    So MindSpore, which takes them in float32, and NumPy get the same numbers.
    """

    inputs: np.ndarray  # (n, 2)
    targets: np.ndarray  # (n,)

    def loss(self, weights: np.ndarray) -> float:
        """The mean squared error of all points, in float64."""
        return mean_squared_error(weights, self.inputs, self.targets)

    @property
    def least_loss(self) -> float:
        """That of the weights which linear algebra finds."""
        return self.loss(np.linalg.lstsq(self.inputs, self.targets, rcond=None)[0])


def make_points(fit: LinearFit) -> Points:
    """x from a normal distribution, y = weights . x + noise, uniform from -noise to noise."""
    random = np.random.default_rng([fit.seed, 0])
    inputs = random.standard_normal((fit.points, 2))
    noise = random.uniform(-fit.noise, fit.noise, fit.points)
    targets = inputs @ np.array(fit.weights) + noise
    return Points(*(array.astype(np.float32).astype(np.float64) for array in (inputs, targets)))


def batches(fit: LinearFit, points: Points) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) of each step: every epoch has every point once, in an order of its own."""
    random = np.random.default_rng([fit.seed, 1])
    for _ in range(fit.epochs):
        order = random.permutation(fit.points)
        for first in range(0, fit.points, fit.batch_size):
            batch = order[first : first + fit.batch_size]
            yield points.inputs[batch], points.targets[batch]


def mean_squared_error(weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> float:
    """The mean over points of (w . x - y)^2."""
    return float(np.mean(np.square(inputs @ weights - targets)))


def error_gradient(weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """2 (w . x - y) x, the mean over points."""
    return 2 * (inputs @ weights - targets) @ inputs / len(targets)


def run(config: LinearComparison, folder: Path, progress: Progress) -> dict[str, Any]:
    """Fits the model with each optimizer, from one start and with one order of batches.

    Args:
        config: What to fit.
        folder: Where Python callables that the config names are looked for first.
        progress: Is called while it goes on.

    Returns:
        What ``trajectories.json`` holds. Its rows are as those of `paths.run`: ``points``
        are the weights, ``values`` the losses of the batches, before each step. Besides,
        ``epoch_values`` are the losses of all points, before the first epoch and after each, and
        ``least_value`` is the least loss that all points allow.
    """
    fit = config.linear_fit
    methods = [method_at(entry, folder) for entry in config.optimizers]
    points = make_points(fit)
    total = len(methods) * fit.steps
    rows, used_mindspore = [], False
    for number, (entry, method) in enumerate(zip(config.optimizers, methods)):

        def told(steps: int, before: int = number * fit.steps) -> None:
            progress(config.name, "linear fit", before + steps, total)

        found = _rows(fit, points, entry.name, method, config.mindspore, told)
        through_mindspore = any(line["computed_by"] != REFERENCE for line in found)
        used_mindspore = used_mindspore or through_mindspore
        if not through_mindspore:  # which tells after each step
            told(fit.steps)
        rows += found
    return {
        "schema": SCHEMA,
        "environment": environment(device_target() if used_mindspore else None),
        "comparison": config.model_dump(mode="json"),
        "results": rows,
    }


def fit_reference(fit: LinearFit, points: Points, method) -> tuple[np.ndarray, np.ndarray]:
    """The weights before each step and after the last, and the loss of each step's batch."""
    plan = list(batches(fit, points))
    given = iter(plan)
    path = follow(
        method, lambda weights: error_gradient(weights, *next(given)), fit.start, fit.steps
    )
    with np.errstate(all="ignore"):
        losses = [mean_squared_error(weights, *batch) for weights, batch in zip(path, plan)]
    return path, np.array(losses)


def _rows(
    fit: LinearFit, points: Points, name: str, method, with_mindspore: bool, told: Callable
) -> list[dict]:
    def made(optimizer: str, computed_by: str, path, losses, facts=None) -> dict:
        per_epoch = fit.steps // fit.epochs
        with np.errstate(all="ignore"):
            end = points.loss(path[-1])
            epochs = np.array([points.loss(weights) for weights in path[::per_epoch]])
        line = row("linear fit", optimizer, computed_by, path, np.append(losses, end), facts)
        return {**line, "epoch_values": plain(epochs), "least_value": points.least_loss}

    def through_mindspore(build: Callable):
        return fit_mindspore(build, batches(fit, points), fit.start, fit.steps, told)

    if isinstance(method, MindSporeOptimizer):
        path, _, losses = through_mindspore(method.build)
        return [made(name, f"{method.name}, float32", path, losses)]
    reference = fit_reference(fit, points, method)
    other = counterpart(method) if with_mindspore else None
    if not isinstance(other, Counterpart):
        reason = None if other is None else {"optimizer": None, "reason": other.reason}
        return [made(name, REFERENCE, *reference, reason)]
    path, gradients, losses = through_mindspore(other.build)
    facts = compare(other, method, path, gradients)
    return [
        made(name, REFERENCE, *reference),
        made(f"{name} ({other.name})", f"{other.name}, float32", path, losses, facts),
    ]
