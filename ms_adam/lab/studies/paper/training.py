"""The worker that trains. Its job is some figures at one scale.

Other workers may have the same job. Each takes a line of a figure, an optimizer in a variant, that
no other has taken, and makes those runs of it that the cache lacks, in the order of
`sweep.sweep_line`. Each run is stored in the cache when it is finished. Its events, besides those
of `ms_adam.lab.run.worker`:

    {"event": "progress", "figure", "label", "done", "steps"}    steps of the current run
    {"event": "run", "figure", "label", "done", "steps"}         it is finished and in the cache
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
from mindspore import Tensor

import ms_adam
from ms_adam.lab.problems import networks
from ms_adam.lab.problems.batches import Batches
from ms_adam.lab.run.worker import Events, enter
from ms_adam.lab.studies.paper import optimizers
from ms_adam.lab.studies.paper.cache import DEVICE_TARGET, CachedFigure
from ms_adam.lab.studies.paper.config import Contender, PaperFigure, Scale, Variant
from ms_adam.lab.studies.paper.data import Examples
from ms_adam.lab.studies.paper.sweep import Outcome, Spec, lines_of, sweep_line
from ms_adam.lab.train import EndOfTraining, Step, TrainStep, train


def work(job: dict[str, Any], events: Events) -> None:
    """Makes all runs of figures that no other worker makes.

    The job is ``figures`` (the configs as plain values), ``scale`` (its name) and ``cache`` (the
    folder), and ``seeds``, of each figure a list of [variant, optimizer, number of judged seeds].
    """
    # One thread: two runs at a time on two cores take less time than two in turn on both, and the
    # number of cores does not decide how a sum is split.
    threads = {"inter_op_parallel_num": 1, "runtime_num_threads": 1}
    enter("graph", {"device_target": DEVICE_TARGET, **threads})
    for content in job["figures"]:
        figure = PaperFigure.model_validate(content)
        cached = CachedFigure(figure, job["scale"], Path(job["cache"]))
        seeds = {(variant, called): count for variant, called, count in job["seeds"][figure.name]}
        for variant, contender in lines_of(figure):
            with cached.taken(variant, contender) as taken:
                if taken:
                    count = seeds[variant.label, contender.called]
                    _make_line(cached, variant, contender, count, events)


def _make_line(
    cached: CachedFigure, variant: Variant, contender: Contender, seeds: int, events: Events
) -> None:
    figure, scale = cached.figure, cached.scale
    trainer: Optional[Trainer] = None  # compiled only if a run is missing

    def make(spec: Spec) -> Outcome:
        nonlocal trainer
        trainer = trainer or Trainer(figure, scale, variant, contender, cached.examples)
        told = {"figure": figure.name, "label": spec.label, "steps": cached.steps}
        outcome = trainer.run(
            spec.learning_rate, spec.seed, lambda done: events.progress(done, **told)
        )
        cached.store(spec, outcome)
        events.send("run", done=cached.steps, **told)
        return outcome

    sweep_line(figure, scale, variant, contender, cached.finished(make), seeds)


class Trainer:
    """Trains one variant of a figure with one optimizer, any number of times.

    The step is compiled once. Each run replaces the first weights, the optimizer's state and the
    learning rate, which are all Parameters, so a grid of runs needs no further compilation.
    """

    def __init__(
        self,
        figure: PaperFigure,
        scale: Scale,
        variant: Variant,
        contender: Contender,
        examples: Examples,
    ):
        self._figure, self._scale = figure, scale
        self._examples = tuple(array[: examples.trained] for array in examples.arrays)
        self._held_out = [Tensor(array[examples.trained :]) for array in examples.arrays]
        self.network = build_network(figure, scale, variant, examples)
        self._parameters = list(self.network.trainable_params())
        self.optimizer = optimizers.build(
            contender.name, self._parameters, contender.settings, figure.decay
        )
        self._first_state = self.optimizer.save_state()
        self._step = TrainStep(self.network, self.optimizer.optimizer)

    def run(self, learning_rate: float, seed: int, progress: Callable[[int], None]) -> Outcome:
        """Trains from the seed's first weights.

        Args:
            learning_rate: alpha; step t uses alpha / sqrt(t) if the figure's decay says so.
            seed: Decides the weights, the order of the examples and all noise.
            progress: Called with the number of finished steps.

        Returns:
            The costs. The run ends at a cost that is not finite; all further costs are infinite.
        """
        started = time.perf_counter()
        costs: list[float] = []
        of_epochs: list[float] = []  # costs of the examples held out, if there are some

        def keep(step: Step) -> None:
            costs.append(float(step.loss))
            if self._figure.held_out is not None and step.number % batches.per_epoch == 0:
                of_epochs.append(self._cost_held_out())
            if not np.isfinite(step.loss):
                raise EndOfTraining
            progress(step.number)

        # Weights, order and noise have generators of their own: a larger network must not change
        # the order. That of the order is seeded by [seed, 1], see `Batches`.
        first = self.network.first_weights(np.random.default_rng([seed, 0]))
        for parameter, value in zip(self._parameters, first):
            parameter.set_data(Tensor(value))
        self.optimizer.restore_state(self._first_state)
        self.optimizer.set_learning_rate(learning_rate)
        if self._figure.held_out is not None:
            of_epochs.append(self._cost_held_out())
        batches = Batches(self._examples, self._figure.batch_size, seed)
        steps = batches.per_epoch * self._scale.epochs
        with_noise = self._with_noise(batches.steps(0, steps), seed)
        made = train(self._step, with_noise, [keep])
        if of_epochs:
            of_epochs += [np.inf] * (self._scale.epochs + 1 - len(of_epochs))
            costs = np.where(np.isfinite(of_epochs), of_epochs, np.inf)
            return Outcome(costs, made, time.perf_counter() - started)
        costs = np.where(np.isfinite(costs), costs, np.inf)
        costs = np.append(costs, np.full(steps - made, np.inf))
        means = costs.reshape(-1, batches.per_epoch).mean(axis=1)
        return Outcome(np.append(costs[0], means), made, time.perf_counter() - started)

    def _cost_held_out(self) -> float:
        """The cost of the examples held out, at the averages of the weights if there are some."""
        made = self.optimizer.optimizer
        has_averages = getattr(made, "ema", None) is not None
        with ms_adam.averaged(made) if has_averages else contextlib.nullcontext():
            return float(self.network(*self._held_out).asnumpy())

    def _with_noise(self, batches: Iterator[tuple], seed: int) -> Iterator[tuple]:
        noise = np.random.default_rng([seed, 2])
        for batch in batches:
            yield (*batch, *self.network.noise(noise, batch))


def build_network(
    figure: PaperFigure, scale: Scale, variant: Variant, examples: Examples
) -> networks.PaperNetwork:
    """Builds the figure's network with layers of the scale's width."""
    network, inputs, classes = figure.network, int(np.prod(examples.shape)), examples.classes
    rates = (variant.input_dropout, variant.dropout)

    def wide(units: int) -> int:
        return max(1, round(units * scale.width))

    if figure.data.source == "reviews":
        return networks.TextLogistic(inputs, variant.input_dropout, variant.l2)
    if network.kind == "logistic":
        return networks.ImageLogistic(inputs, classes, variant.l2)
    if network.kind == "perceptron":
        sizes = [inputs, *map(wide, network.hidden), classes]
        return networks.PaperPerceptron(sizes, *rates, variant.l2)
    if network.kind == "convolution":
        channels = [wide(count) for count in network.channels]
        return networks.ConvolutionNetwork(
            examples.shape, classes, channels, wide(network.units), *rates
        )
    return networks.AutoEncoder(inputs, wide(network.units), wide(network.latent))
