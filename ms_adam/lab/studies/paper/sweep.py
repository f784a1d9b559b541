"""The grid search: the runs of a figure, and the choice of each optimizer's learning rate.

Every optimizer gets the same number of learning rates on the tuning seeds. The one with the lowest
cost at the end then runs on the judged seeds, which had no part in the choice.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

import numpy as np

from ms_adam.lab.studies.paper.config import Contender, PaperFigure, Scale, Variant


class Outcome(NamedTuple):
    """The result of a run.

    Attributes:
        costs: float64, shape (epochs + 1,): of the first batch before any step, then the mean over
            the batches of each epoch, each before its step. Infinite from where it diverged.
        steps: Number of steps until the end, or until the cost was not finite.
        seconds: Their time.
    """

    costs: np.ndarray
    steps: int
    seconds: float

    @property
    def diverged(self) -> bool:
        return not np.isfinite(self.costs[-1])


class Spec(NamedTuple):
    """The full name of a run."""

    variant: Variant
    contender: Contender
    learning_rate: float
    seed: int

    @property
    def label(self) -> str:
        return (
            f"{self.variant.label}, {self.contender.called}, "
            f"rate {self.learning_rate:g}, seed {self.seed}"
        )

    def digest(self, figure: PaperFigure, scale: Scale, surroundings: dict[str, str]) -> str:
        """Hashes everything that the outcome depends on, the code and the examples among it."""
        content = {
            "network": figure.network.model_dump(mode="json"),
            "batch_size": figure.batch_size,
            "decay": figure.decay,
            "width": scale.width,
            "epochs": scale.epochs,
            "variant": self.variant.model_dump(mode="json", exclude={"label"}),
            "optimizer": self.contender.name,
            "settings": self.contender.settings,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            **surroundings,
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:20]


Get = Callable[[Spec], Outcome]  # makes a run, or finds it


class Run(NamedTuple):
    """A run of a sweep; its purpose is "trial", "judged" or "grid"."""

    spec: Spec
    purpose: str
    outcome: Outcome


class Line(NamedTuple):
    """One optimizer in one variant.

    Attributes:
        trials: The outcomes of each learning rate, one for each seed.
        best: The learning rate with the lowest cost at the end.
        judged: The outcomes at the best learning rate on the judged seeds, in their order.
        runs: All runs, in their order.
    """

    variant: Variant
    contender: Contender
    trials: dict[float, list[Outcome]]
    best: float
    judged: list[Outcome]
    runs: Sequence[Run] = ()

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate is the least or the largest one of several.

        More trials could then find a better one.
        """
        return len(self.trials) > 1 and self.best in (min(self.trials), max(self.trials))


def sweep(figure: PaperFigure, scale: Scale, get: Get) -> list[Line]:
    """Gets all runs of a figure in their order: by variant, by optimizer, trials first."""
    return [sweep_line(figure, scale, *of, get) for of in lines_of(figure)]


def lines_of(figure: PaperFigure) -> Iterator[tuple[Variant, Contender]]:
    """Yields variant and optimizer of each line. No line needs the runs of another."""
    return itertools.product(figure.variants, figure.optimizers)


def sweep_line(
    figure: PaperFigure, scale: Scale, variant: Variant, contender: Contender, get: Get
) -> Line:
    """Gets all runs of one line, trials first."""
    runs: list[Run] = []

    def outcomes(purpose: str, rate: float, seeds: Sequence[int]) -> list[Outcome]:
        specs = [Spec(variant, contender, rate, seed) for seed in seeds]
        runs.extend(Run(spec, purpose, get(spec)) for spec in specs)
        return [run.outcome for run in runs[-len(specs) :]]

    grid = figure.design == "grid"
    purpose, seeds = ("grid", figure.seeds) if grid else ("trial", figure.tuning_seeds)
    trials = {rate: outcomes(purpose, rate, seeds) for rate in contender.trials(scale.trials)}
    best = best_rate(trials)
    judged = trials[best] if grid else outcomes("judged", best, figure.seeds)
    return Line(variant, contender, trials, best, judged, runs)


def best_rate(trials: dict[float, list[Outcome]]) -> float:
    """Returns the learning rate with the lowest mean cost at the end; of equal ones the least."""
    return min(sorted(trials), key=lambda rate: mean_cost(trials[rate], -1))


def mean_cost(outcomes: Sequence[Outcome], epoch: int) -> float:
    """Returns the mean over seeds after an epoch; infinite if one diverged."""
    return float(np.mean([outcome.costs[epoch] for outcome in outcomes]))


def curves(outcomes: Sequence[Outcome]) -> np.ndarray:
    """Returns the costs of several seeds, shape (seeds, epochs + 1)."""
    return np.stack([outcome.costs for outcome in outcomes])


def steps_to(costs: np.ndarray, target: float) -> float:
    """Returns after how many epochs a cost is first reached; infinite if never.

    Between epochs the logarithm of the cost is taken to be linear or, where a cost is not positive,
    the cost itself.
    """
    reached = np.flatnonzero(costs <= target)
    if len(reached) == 0:
        return float("inf")
    epoch = int(reached[0])
    if epoch == 0:
        return 0.0
    before, after = float(costs[epoch - 1]), float(costs[epoch])
    if not np.isfinite(before) or before == after:
        return float(epoch)
    if after > 0 and target > 0:
        before, after, target = np.log([before, after, target])
    return epoch - 1 + float((before - target) / (before - after))
