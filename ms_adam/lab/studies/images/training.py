"""Trainings on images."""

from __future__ import annotations

import functools
from typing import Any

import mindspore
import numpy as np
from mindspore import nn

from ms_adam import reference
from ms_adam.lab.observers import Record, Shadow, digest, flat, loss
from ms_adam.lab.problems.images import Split
from ms_adam.lab.problems.networks import MultiLayerPerceptron, accuracy
from ms_adam.lab.sides import REFERENCE, Training
from ms_adam.lab.studies.images.study import Experiment
from ms_adam.lab.targets import NumpyOptimizer, load_callable
from ms_adam.lab.train import Step, TrainStep, fused_loss

SHADOWS = {"error_algorithm1": "outside", "error_epsilon_hat": "hat"}  # where epsilon stands


def training(experiment: Experiment, split: Split, optimizer: str, seed: int) -> Training:
    """Builds a training in the mode that the process is in.

    Per step it keeps ``loss`` (before the update), ``gradient_digest`` and ``parameter_digest``
    (uint64), ``error_algorithm1`` and ``error_epsilon_hat`` (distance to the two shadows after the
    update; not of the reference). Per epoch: ``train_accuracy`` and ``test_accuracy``.
    The optimizer is one of ``compare.optimizers``, or `REFERENCE`.
    """
    sizes = [split.train.pixels.shape[1], *experiment.model.hidden, split.classes]
    model = MultiLayerPerceptron(sizes, seed)
    parameters = list(model.trainable_params())
    settings = experiment.adam.model_dump()
    shadows, backend = {}, None
    if optimizer == REFERENCE:
        step = ReferenceStep(model, parameters, reference.Adam(**settings, epsilon="outside"))
        position = step.where
    else:
        adam = load_callable(optimizer)(parameters, **settings)
        backend = getattr(adam, "backend", None)
        step = TrainStep(model, adam, fused_loss(), with_gradients=True)
        position = functools.partial(flat, parameters)
        shadows = {
            name: Shadow(reference.Adam(**settings, epsilon=place), position())
            for name, place in SHADOWS.items()
        }

    def after_step(done: Step) -> dict[str, Any]:
        gradient, now = flat(done.gradients), position()
        return {
            **loss(done),
            "gradient_digest": digest(gradient),
            "parameter_digest": digest(now),
            **{name: shadow.follow(gradient, now) for name, shadow in shadows.items()},
        }

    def after_epoch(_) -> dict[str, Any]:
        of_parts = {"train_accuracy": split.train, "test_accuracy": split.test}
        return {name: accuracy(model, images) for name, images in of_parts.items()}

    observers = [Record(after_step), Record(after_epoch, experiment.steps_per_epoch)]
    examples = (split.train.inputs, split.train.targets)
    facts = {"optimizer": optimizer, "backend": backend}
    return Training(experiment, examples, seed, step, position, observers, **facts)


class ReferenceStep:
    """A step of NumPy's float64 Adam (Algorithm 1), called as a `TrainStep`.

    The gradients are MindSpore's, at the float32 rounding of the float64 parameters. Parameters and
    moments are never rounded.
    """

    def __init__(self, model: nn.Cell, parameters: list, adam: reference.Adam):
        self._parameters = parameters
        wanted = mindspore.ParameterTuple(parameters)
        self._gradients = TrainStep(model, None, fused_loss(), parameters=wanted)
        self._optimizer = NumpyOptimizer(adam, parameters)

    def where(self) -> np.ndarray:
        """Returns all parameters one after the other, float64."""
        return np.concatenate([weight.ravel() for weight in self._optimizer.weights()])

    def __call__(self, *batch) -> tuple:
        loss, gradients = self._gradients(*batch)
        self._optimizer.step([gradient.asnumpy() for gradient in gradients])
        for parameter, weight in zip(self._parameters, self._optimizer.weights()):
            parameter.set_data(mindspore.Tensor(weight.astype(np.float32)))
        return loss, gradients
