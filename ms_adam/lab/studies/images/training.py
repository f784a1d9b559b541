"""The worker that trains on images in one mode."""

from __future__ import annotations

import itertools
import time
from typing import Any

import mindspore
import numpy as np
from mindspore import nn

from ms_adam import reference
from ms_adam.lab.observers import Record, Shadow, digest, flat, loss
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.images import Split
from ms_adam.lab.problems.networks import MultiLayerPerceptron, accuracy
from ms_adam.lab.run.trainings import REFERENCE, report_run
from ms_adam.lab.run.worker import Events, enter
from ms_adam.lab.studies.images.study import Experiment, load_data
from ms_adam.lab.targets import load_callable
from ms_adam.lab.train import Observer, TrainStep, fused_loss, train

SHADOWS = {"error_algorithm1": "outside", "error_epsilon_hat": "hat"}  # where epsilon stands


def work(job: dict[str, Any], events: Events) -> None:
    """Does all runs of one mode.

    Args:
        job: As `Trainings` has it, and ``reference``: whether to do the float64 runs too.
        events: Where to report.
    """
    enter(job["mode"])
    experiment = Experiment.model_validate(job["config"])
    split = load_data(experiment)
    optimizers = [*experiment.compare.optimizers, *([REFERENCE] if job["reference"] else [])]
    runs = itertools.product(optimizers, experiment.compare.seeds)
    for before, (optimizer, seed) in zip(itertools.count(0, experiment.steps), runs):

        def progress(step, before: int = before) -> None:
            events.progress(before + step.number)

        arrays, facts = train_once(experiment, split, optimizer, seed, progress)
        name = f"{optimizer.replace(' ', '-')}_{job['mode']}_seed{seed}"
        done = before + experiment.steps
        report_run(events, job, done, name, arrays, optimizer=optimizer, seed=seed, **facts)


def train_once(
    experiment: Experiment, split: Split, optimizer: str, seed: int, progress: Observer
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Trains once, in the mode that the process is in.

    Args:
        experiment: What to train, and how.
        split: The images.
        optimizer: One of ``compare.optimizers``, or `REFERENCE`.
        seed: Decides the first weights and the order of the batches.
        progress: Called after each step.

    Returns:
        The arrays. Per step: ``loss`` (before the update), ``gradient_digest`` and
        ``parameter_digest`` (uint64), ``error_algorithm1`` and ``error_epsilon_hat`` (distance to
        the two shadows after the update; not of the reference). Per epoch: ``train_accuracy`` and
        ``test_accuracy``. Once: ``initial`` and ``final``, all parameters one after the other. And
        the facts ``seconds`` and ``backend``.
    """
    sizes = [split.train.pixels.shape[1], *experiment.model.hidden, split.classes]
    model = MultiLayerPerceptron(sizes, seed)
    parameters = list(model.trainable_params())
    settings = experiment.adam.model_dump()
    shadows, backend = {}, None
    if optimizer == REFERENCE:
        step = ReferenceStep(model, parameters, reference.Adam(**settings, epsilon="outside"))
        position = initial = step.position
    else:
        adam = load_callable(optimizer)(parameters, **settings)
        backend = getattr(adam, "backend", None)
        step = TrainStep(model, adam, fused_loss(), with_gradients=True)
        position = initial = flat(parameters)
        shadows = {
            name: Shadow(reference.Adam(**settings, epsilon=place), initial)
            for name, place in SHADOWS.items()
        }

    def after_step(done) -> dict[str, Any]:
        nonlocal position
        gradient = flat(done.gradients)
        position = step.position if optimizer == REFERENCE else flat(parameters)
        return {
            **loss(done),
            "gradient_digest": digest(gradient),
            "parameter_digest": digest(position),
            **{name: shadow.follow(gradient, position) for name, shadow in shadows.items()},
        }

    def after_epoch(_) -> dict[str, Any]:
        return {
            "train_accuracy": accuracy(model, split.train),
            "test_accuracy": accuracy(model, split.test),
        }

    steps, epochs = Record(after_step), Record(after_epoch, experiment.steps_per_epoch)
    arrays = (split.train.inputs, split.train.targets)
    batches = Batches(arrays, experiment.training.batch_size, seed)
    started = time.perf_counter()
    train(step, batches.steps(0, experiment.steps), [steps, epochs, progress])
    facts = {"seconds": time.perf_counter() - started, "backend": backend}
    return {**steps.arrays(), **epochs.arrays(), "initial": initial, "final": position}, facts


class ReferenceStep:
    """A step of NumPy's float64 Adam (Algorithm 1), called as a `TrainStep`.

    The gradients are MindSpore's, at the float32 rounding of the float64 parameters. Parameters and
    moments are never rounded.

    Attributes:
        position: All parameters one after the other, float64.
    """

    def __init__(self, model: nn.Cell, parameters: list, adam: reference.Adam):
        self._parameters, self._adam = parameters, adam
        wanted = mindspore.ParameterTuple(parameters)
        self._gradients = TrainStep(model, None, fused_loss(), parameters=wanted)
        self.position = flat(parameters).astype(np.float64)
        self._state = adam.init(self.position)

    def __call__(self, *batch) -> tuple:
        loss, gradients = self._gradients(*batch)
        gradient = flat(gradients).astype(np.float64)
        self.position, self._state = self._adam.step(self.position, gradient, self._state)
        start = 0
        for parameter in self._parameters:
            part = self.position[start : start + parameter.size].reshape(parameter.shape)
            parameter.set_data(mindspore.Tensor(part.astype(np.float32)))
            start += parameter.size
        return loss, gradients
