"""One run: a network trained by one optimizer at one learning rate from one seed.

A `Trainer` compiles its step once. For each run the first weights, the optimizer's state and the
learning rate, all of them Parameters, are put in place, so a grid costs no compilation.
"""

from __future__ import annotations

import time
from typing import Callable

import numpy as np
from mindspore import Tensor

from ms_adam.lab.studies.paper import networks, optimizers
from ms_adam.lab.studies.paper.config import Contender, PaperFigure, Scale, Variant
from ms_adam.lab.studies.paper.data import Examples, batches
from ms_adam.lab.studies.paper.sweep import Outcome


class Trainer:
    """Trains one variant of a figure with one optimizer, as often as it is asked to."""

    def __init__(
        self,
        figure: PaperFigure,
        scale: Scale,
        variant: Variant,
        contender: Contender,
        examples: Examples,
    ):
        self._figure, self._scale, self._examples = figure, scale, examples
        self.network = build_network(figure, scale, variant, examples)
        self._parameters = list(self.network.trainable_params())
        self.optimizer = optimizers.build(contender.name, self._parameters, contender.settings)
        self._state = optimizers.State(self.optimizer)
        self._step = networks.Step(self.network, self.optimizer)

    def run(self, learning_rate: float, seed: int, progress: Callable[[int], None]) -> Outcome:
        """Trains from the seed's first weights.

        Args:
            learning_rate: alpha; step t has alpha / sqrt(t) if the figure's decay says so.
            seed: Decides the weights, the order of the examples and all noise.
            progress: Is called with the steps that are done.

        Returns:
            The costs. Where one is not finite the run ends, and all costs from there on are
            infinite.
        """
        started = time.perf_counter()
        scale, batch_size = self._scale, self._figure.batch_size
        per_epoch = len(self._examples) // batch_size
        self._reset(learning_rate, seed)
        # The three have generators of their own: a larger network must not change the order.
        order, noise = (np.random.default_rng([seed, use]) for use in (1, 2))
        costs: list[float] = []
        for batch in batches(self._examples, batch_size, scale.epochs, order):
            if self._figure.decay == "inverse sqrt":
                optimizers.set_rate(self.optimizer, learning_rate / np.sqrt(len(costs) + 1))
            cost = self._step(*map(Tensor, (*batch, *self.network.noise(noise, batch))))
            costs.append(float(cost.asnumpy()))
            if not np.isfinite(costs[-1]):
                break
            progress(len(costs))
        steps = len(costs)
        costs += [np.inf] * (per_epoch * scale.epochs - steps)
        means = np.reshape(np.where(np.isfinite(costs), costs, np.inf), (-1, per_epoch)).mean(1)
        first = costs[0] if np.isfinite(costs[0]) else np.inf
        return Outcome(np.append(first, means), steps, time.perf_counter() - started)

    def _reset(self, learning_rate: float, seed: int) -> None:
        first = self.network.first_weights(np.random.default_rng([seed, 0]))
        for parameter, value in zip(self._parameters, first):
            parameter.set_data(Tensor(value))
        self._state.reset()
        optimizers.set_rate(self.optimizer, learning_rate)


def build_network(
    figure: PaperFigure, scale: Scale, variant: Variant, examples: Examples
) -> networks.Network:
    """The figure's network, its layers as wide as the scale says."""
    network = figure.network

    def wide(units: int) -> int:
        return max(1, round(units * scale.width))

    if network.kind == "logistic" and figure.data.source == "reviews":
        return networks.TextLogistic(examples.shape[0], variant.input_dropout, variant.l2)
    inputs = int(np.prod(examples.shape))
    if network.kind == "logistic":
        return networks.ImageLogistic(inputs, examples.classes, variant.l2)
    if network.kind == "perceptron":
        sizes = [inputs, *map(wide, network.hidden), examples.classes]
        return networks.Perceptron(sizes, variant.input_dropout, variant.dropout, variant.l2)
    if network.kind == "convolution":
        return networks.ConvolutionNetwork(
            examples.shape,
            examples.classes,
            [wide(count) for count in network.channels],
            wide(network.units),
            variant.input_dropout,
            variant.dropout,
        )
    return networks.AutoEncoder(inputs, wide(network.units), wide(network.latent))
