"""Trainings on images: each optimizer in each mode, held to NumPy's float64 Adam."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import numpy as np
from mindspore import ParameterTuple, Tensor, nn
from pydantic import Field

from ms_adam import reference
from ms_adam.lab.observers import Record, Shadow, digest, flat, loss
from ms_adam.lab.problems.images import Split, load_data
from ms_adam.lab.problems.networks import MultiLayerPerceptron, accuracy
from ms_adam.lab.run.config import Modes, Once, OnImages, Section, Seeds, Share
from ms_adam.lab.run.study import Study
from ms_adam.lab.sides import REFERENCE, Result, Run, Trainings, first_difference
from ms_adam.lab.studies.images.claims import CLAIMS, rounding_bound
from ms_adam.lab.targets import NumpyOptimizer, load_callable
from ms_adam.lab.train import Step, TrainStep, fused_loss

SHADOWS = {"error_algorithm1": "outside", "error_epsilon_hat": "hat"}  # where epsilon stands
OptimizerName = Literal["ms_adam.Adam", "mindspore.nn.Adam"]


class Compare(Section):
    """Which runs there are, and the accuracy that counts as trained."""

    optimizers: Annotated[list[OptimizerName], Field(min_length=1), Once]
    modes: Modes
    seeds: Seeds
    least_accuracy: Share


class Experiment(OnImages):
    """A config. See ``configs/quick.yaml`` for the meaning of each key."""

    study: Literal["images"]
    compare: Compare


def sides(experiment: Experiment) -> dict[str, list[str]]:
    """Every optimizer trains in each mode; the reference's gradients come from one of them."""
    modes = experiment.compare.modes
    reference_mode = "graph" if "graph" in modes else modes[0]  # the quicker one
    return {**dict.fromkeys(experiment.compare.optimizers, modes), REFERENCE: [reference_mode]}


def training(experiment: Experiment, split: Split, optimizer: str, seed: int) -> Run:
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
    return Run(experiment, examples, seed, step, position, observers, **facts)


class ReferenceStep:
    """A step of NumPy's float64 Adam (Algorithm 1), called as a `TrainStep`.

    The gradients are MindSpore's, at the float32 rounding of the float64 parameters. Parameters and
    moments are never rounded.
    """

    def __init__(self, model: nn.Cell, parameters: list, adam: reference.Adam):
        self._parameters = parameters
        wanted = ParameterTuple(parameters)
        self._gradients = TrainStep(model, None, fused_loss(), parameters=wanted)
        self._optimizer = NumpyOptimizer(adam, parameters)

    def where(self) -> np.ndarray:
        """Returns all parameters one after the other, float64."""
        return np.concatenate([weight.ravel() for weight in self._optimizer.weights()])

    def __call__(self, *batch) -> tuple:
        loss, gradients = self._gradients(*batch)
        self._optimizer.step([gradient.asnumpy() for gradient in gradients])
        for parameter, weight in zip(self._parameters, self._optimizer.weights()):
            parameter.set_data(Tensor(weight.astype(np.float32)))
        return loss, gradients


def row(experiment: Experiment, result: Result) -> dict[str, Any]:
    """Makes the study's columns of a run.

    Returns:
        Both accuracies, ``error_algorithm1`` and ``error_epsilon_hat`` (distances to the run's
        float64 shadows after the last step), and ``rounding_bound``, what roundings alone explain;
        the last three are None for the reference.
    """
    arrays, names = result.arrays, ("error_algorithm1", "error_epsilon_hat")
    found = {name: float(arrays[name][-1]) for name in ("train_accuracy", "test_accuracy")}
    if result.optimizer == REFERENCE:
        return {**found, **dict.fromkeys(names), "rounding_bound": None}
    path = len(arrays["loss"]), arrays["initial"], arrays["final"]
    found.update({name: float(arrays[name][-1]) for name in names})
    return {**found, "rounding_bound": rounding_bound(experiment.adam, *path)}


def more(experiment: Experiment, split: Split, results: list[Result]) -> dict[str, Any]:
    return {"images_sha256": split.fingerprint, "modes": compare_modes(results)}


def compare_modes(results: list[Result]) -> list[dict[str, Any]]:
    """Compares graph mode with PyNative mode, bit for bit, for each optimizer and seed.

    Returns:
        ``gradients_part`` and ``parameters_part`` are the first step (from 1) after which the
        gradients and the parameters differ in any bit, or None if they never do.
    """
    found = {(result.optimizer, result.mode, result.seed): result for result in results}
    return [
        {
            "optimizer": optimizer,
            "seed": seed,
            "steps": len(graph.arrays["loss"]),
            "gradients_part": first_difference(graph, pynative, "gradient_digest"),
            "parameters_part": first_difference(graph, pynative, "parameter_digest"),
        }
        for (optimizer, mode, seed), graph in found.items()
        for pynative in [found.get((optimizer, "pynative", seed))]
        if mode == "graph" and pynative is not None
    ]


TRAININGS = Trainings(
    __name__, Experiment, load_data, training, sides, row, more, CLAIMS, "{side}_{mode}"
)
STUDY = Study("images", Experiment, TRAININGS.run, "ms_adam.lab.report.studies.images:write_page")
