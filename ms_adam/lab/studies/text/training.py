"""The worker that trains on text in one mode."""

from __future__ import annotations

import itertools
import time
from typing import Any

import mindspore
import numpy as np
from mindspore import nn

import ms_adam
from ms_adam.lab.measure import relative_distance
from ms_adam.lab.observers import Record, digest, flat, loss, step_ms
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.problems.networks import BagOfWords
from ms_adam.lab.problems.text import TextSplit
from ms_adam.lab.run.config import AdamSettings
from ms_adam.lab.run.trainings import report_run
from ms_adam.lab.run.worker import Events, enter
from ms_adam.lab.studies.text.sides import SIDES, Side
from ms_adam.lab.studies.text.study import TextExperiment, load_data
from ms_adam.lab.train import Observer, Step, TrainStep, fused_loss, train

# What is compared with the sides that are followed, on their own gradients.
_FOLLOWER = SIDES["nn_lazy"]


def work(job: dict[str, Any], events: Events) -> None:
    """Does all runs of one mode.

    The sides of a seed take turns, an epoch each: changes of the machine's speed then meet all of
    them, and their times can be compared.

    Args:
        job: As `Trainings` has it.
        events: Where to report.
    """
    enter(job["mode"])
    experiment = TextExperiment.model_validate(job["config"])
    split = load_data(experiment)
    steps = itertools.count(1)
    done = 0

    def progress(_) -> None:
        nonlocal done
        done = next(steps)
        events.progress(done)

    for seed in experiment.compare.seeds:
        sides = experiment.sides_of(job["mode"])
        trainings = [TextTraining(experiment, split, side, seed) for side in sides]
        for _ in range(experiment.training.epochs):
            for training in trainings:
                training.epoch(progress)
        for side, training in zip(sides, trainings):
            facts = {"side": side, "optimizer": SIDES[side].title, "seed": seed}
            name, arrays = f"{side}_seed{seed}", training.arrays()
            report_run(events, job, done, name, arrays, **facts, **training.facts())


class TextTraining:
    """The training of one side from one seed; it goes on epoch by epoch."""

    def __init__(self, experiment: TextExperiment, split: TextSplit, side: str, seed: int):
        self._split = split
        one, settings = SIDES[side], experiment.adam
        row_sparse = one.gradients == "rows"
        self._model = BagOfWords(split.rows, experiment.model.width, row_sparse, seed)
        self._parameters = list(self._model.trainable_params())
        self._optimizer = make_optimizer(one, self._parameters, settings)
        self._initial = flat(self._parameters)
        self._followed_by, follower = [], None
        if one.followed:
            self._followed_by = [
                mindspore.Parameter(mindspore.Tensor(np.array(p.asnumpy())), name=f"own.{p.name}")
                for p in self._parameters
            ]
            follower = make_optimizer(_FOLLOWER, self._followed_by, settings)
        self._step = TrainStep(self._model, self._optimizer, fused_loss(), follower=follower)
        bags, self._per_epoch = split.train, experiment.steps_per_epoch
        arrays = (bags.words, bags.shares, bags.labels)
        self._batches = Batches(arrays, experiment.training.batch_size, seed).steps()
        self._steps = Record(lambda step: {**loss(step), **step_ms(step)})
        self._epochs = Record(self._after_epoch, self._per_epoch)
        self._first: dict[str, np.ndarray] = {}
        self._done, self._seconds = 0, 0.0

    def epoch(self, progress: Observer) -> None:
        """Trains for an epoch and tests; `progress` is called after each step."""
        started = time.perf_counter()
        batches = itertools.islice(self._batches, self._per_epoch)
        observers = [self._steps, self._after_first_step, self._epochs, progress]
        self._done = train(self._step, batches, observers, self._done)
        self._seconds += time.perf_counter() - started

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what is kept as .npz.

        Per step ``loss`` (before the update) and ``step_ms``. Per epoch ``test_accuracy``,
        ``test_loss``, ``digest`` (uint64; equal for equal bits in parameters and moments) and,
        where nn.Adam follows, ``follower``: max |p - nn.Adam's p| / max |nn.Adam's p - first p|.
        Per row of the table ``named_first``, how often the first batch names it, and
        ``moved_first``, how far the first step moves it. ``initial`` and ``final``: all parameters,
        the table first.
        """
        ends = {"initial": self._initial, "final": flat(self._parameters)}
        return {**self._steps.arrays(), **self._epochs.arrays(), **self._first, **ends}

    def facts(self) -> dict[str, Any]:
        """Returns what is kept as JSON."""
        return {"seconds": self._seconds, "backend": getattr(self._optimizer, "backend", None)}

    def _after_first_step(self, step: Step) -> None:
        if step.number == 1:
            table = self._parameters[0]
            way = table.asnumpy() - self._initial[: table.size].reshape(table.shape)
            self._first = {
                "named_first": np.bincount(step.batch[0].ravel(), minlength=len(way)),
                "moved_first": np.linalg.norm(way, axis=1),
            }

    def _after_epoch(self, _) -> dict[str, Any]:
        bags = self._split.test
        inputs = (mindspore.Tensor(bags.words), mindspore.Tensor(bags.shares))
        logits = self._model(*inputs).asnumpy().astype(np.float64)
        chosen = logits[np.arange(len(bags)), bags.labels]
        state = [*self._parameters, *self._optimizer.moment1, *self._optimizer.moment2]
        found = {
            "test_accuracy": np.mean(np.argmax(logits, axis=1) == bags.labels),
            "test_loss": np.mean(np.logaddexp.reduce(logits, axis=1) - chosen),
            "digest": digest(flat(state)),
        }
        if self._followed_by:
            own, other = flat(self._parameters), flat(self._followed_by)
            found["follower"] = relative_distance(own, other, self._initial)
        return found


def make_optimizer(side: Side, parameters: list, settings: AdamSettings) -> nn.Optimizer:
    """Makes the optimizer of a side."""
    adam = ms_adam.Adam if side.is_ours else nn.Adam
    optimizer = adam(parameters, **settings.model_dump(), **side.options)
    if side.target:
        optimizer.target = side.target
    return optimizer
