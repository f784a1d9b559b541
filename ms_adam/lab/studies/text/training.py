"""Trainings on text."""

from __future__ import annotations

import functools
from typing import Any

import mindspore
import numpy as np
from mindspore import nn

import ms_adam
from ms_adam.lab.measure import relative_distance
from ms_adam.lab.observers import Record, digest, flat, loss, step_ms
from ms_adam.lab.problems.networks import BagOfWords, held_out
from ms_adam.lab.problems.text import TextSplit
from ms_adam.lab.run.config import AdamSettings
from ms_adam.lab.sides import Training
from ms_adam.lab.studies.text.sides import SIDES, Side
from ms_adam.lab.studies.text.study import TextExperiment
from ms_adam.lab.train import Step, TrainStep, copies, fused_loss

# What is compared with the sides that are followed, on their own gradients.
_FOLLOWER = SIDES["nn_lazy"]


def training(experiment: TextExperiment, split: TextSplit, side: str, seed: int) -> Training:
    """Builds the training of one side from one seed.

    Per step it keeps ``loss`` (before the update) and ``step_ms``. Per epoch ``test_accuracy``,
    ``test_loss``, ``digest`` (uint64; equal for equal bits in parameters and moments) and, where
    nn.Adam follows, ``follower``: max |p - nn.Adam's p| / max |nn.Adam's p - first p|. Per row of
    the table, which comes first of the parameters, the arrays of `FirstStep`.
    """
    one, settings = SIDES[side], experiment.adam
    model = BagOfWords(split.rows, experiment.model.width, one.gradients == "rows", seed)
    parameters = list(model.trainable_params())
    optimizer = make_optimizer(one, parameters, settings)
    initial, follower = flat(parameters), None
    if one.followed:
        followed_by = copies(parameters)
        follower = make_optimizer(_FOLLOWER, followed_by, settings)
    step = TrainStep(model, optimizer, fused_loss(), follower=follower)

    def after_epoch(_) -> dict[str, Any]:
        found = held_out(model, (split.test.words, split.test.shares), split.test.labels)
        found["digest"] = digest(flat([*parameters, *optimizer.moment1, *optimizer.moment2]))
        if follower is not None:
            now = flat(parameters), flat(followed_by)
            found["follower"] = relative_distance(*now, initial)
        return found

    observers = [
        Record(lambda step: {**loss(step), **step_ms(step)}),
        Record(after_epoch, experiment.steps_per_epoch),
        FirstStep(parameters[0]),
    ]
    examples = (split.train.words, split.train.shares, split.train.labels)
    facts = {"optimizer": one.title, "backend": getattr(optimizer, "backend", None)}
    position = functools.partial(flat, parameters)
    return Training(experiment, examples, seed, step, position, observers, **facts)


class FirstStep:
    """Keeps how often the first batch names each row of a table, and how far its step moves it."""

    def __init__(self, table: mindspore.Parameter):
        self._table, self._initial = table, table.asnumpy().copy()
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(self, step: Step) -> None:
        if step.number == 1:
            way = self._table.asnumpy() - self._initial
            named = np.bincount(step.batch[0].ravel(), minlength=len(way))
            self._arrays = {"named_first": named, "moved_first": np.linalg.norm(way, axis=1)}

    def arrays(self) -> dict[str, np.ndarray]:
        return self._arrays


def make_optimizer(side: Side, parameters: list, settings: AdamSettings) -> nn.Optimizer:
    """Makes the optimizer of a side."""
    adam = ms_adam.Adam if side.is_ours else nn.Adam
    optimizer = adam(parameters, **settings.model_dump(), **side.options)
    if side.target:
        optimizer.target = side.target
    return optimizer
