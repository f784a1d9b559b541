"""The grid search: which runs a figure is made of, and which learning rate is the best.

Every optimizer gets the same number of learning rates on the tuning seeds. The one with the lowest
cost at the end is then run on the judged seeds, which had no part in choosing it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import numpy as np

from ms_adam.lab.studies.paper.config import Contender, PaperFigure, Scale, Variant


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run left.

    Attributes:
        costs: float64, shape (epochs + 1,): of the first batch before any step, then the mean over
            the batches of each epoch, each before its step. Infinite from where it diverged.
        steps: Made until the end, or until the cost was not finite.
        seconds: How long they took.
    """

    costs: np.ndarray
    steps: int
    seconds: float

    @property
    def diverged(self) -> bool:
        return not np.isfinite(self.costs[-1])


@dataclasses.dataclass(frozen=True)
class Spec:
    """One run, named in full."""

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
        """A hash of everything that the outcome depends on.

        Args:
            figure: What it belongs to.
            scale: At which size.
            surroundings: What is not in the config: the examples, the code, MindSpore's version.
        """
        content: dict[str, Any] = {
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


Get = Callable[[Spec], Outcome]  # runs it, or finds it


@dataclasses.dataclass(frozen=True)
class Line:
    """One optimizer in one variant.

    Attributes:
        trials: Of each learning rate tried, its outcomes, a seed each.
        best: The learning rate with the lowest cost at the end.
        judged: The outcomes at the best learning rate on the judged seeds, in their order.
    """

    variant: Variant
    contender: Contender
    trials: dict[float, list[Outcome]]
    best: float
    judged: list[Outcome]

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate is the least or the largest one tried.

        More trials could then have found a better one.
        """
        return len(self.trials) > 1 and self.best in (min(self.trials), max(self.trials))


def sweep(figure: PaperFigure, scale: Scale, get: Get) -> list[Line]:
    """All runs of a figure, in their order: by variant, by optimizer, trials first."""
    return [sweep_line(figure, scale, *of, get) for of in lines_of(figure)]


def lines_of(figure: PaperFigure) -> Iterator[tuple[Variant, Contender]]:
    """What the lines of a figure are of, in their order. No line needs another's runs."""
    return itertools.product(figure.variants, figure.optimizers)


def sweep_line(
    figure: PaperFigure, scale: Scale, variant: Variant, contender: Contender, get: Get
) -> Line:
    """All runs of one line, trials first."""
    grid = figure.design == "grid"
    trials = {
        rate: [
            get(Spec(variant, contender, rate, seed))
            for seed in (figure.seeds if grid else figure.tuning_seeds)
        ]
        for rate in contender.trials(scale.trials)
    }
    best = best_rate(trials)
    judged = (
        trials[best]
        if grid
        else [get(Spec(variant, contender, best, seed)) for seed in figure.seeds]
    )
    return Line(variant, contender, trials, best, judged)


def best_rate(trials: dict[float, list[Outcome]]) -> float:
    """The learning rate with the lowest mean cost at the end; of equal ones the smallest."""
    return min(sorted(trials), key=lambda rate: mean_cost(trials[rate], -1))


def mean_cost(outcomes: Sequence[Outcome], epoch: int) -> float:
    """The mean over seeds after an epoch; infinite if one diverged."""
    return float(np.mean([outcome.costs[epoch] for outcome in outcomes]))


def count(figure: PaperFigure, scale: Scale) -> int:
    """How many runs `sweep` makes."""
    lines = len(figure.variants) * len(figure.optimizers)
    if figure.design == "grid":
        return lines * scale.trials * len(figure.seeds)
    return lines * (scale.trials * len(figure.tuning_seeds) + len(figure.seeds))


def steps_to(costs: np.ndarray, target: float) -> float:
    """After how many epochs a cost is reached for the first time; infinite if never.

    Between epochs the logarithm of the cost, or, where a cost is not positive, the cost itself is
    taken to be linear.
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


def curves(outcomes: Sequence[Outcome]) -> np.ndarray:
    """The costs of several seeds, shape (seeds, epochs + 1)."""
    return np.stack([outcome.costs for outcome in outcomes])


def runs(lines: Sequence[Line], figure: PaperFigure) -> Iterator[tuple[Spec, str, Outcome]]:
    """Every run of a sweep with what it was for: "trial", "judged", or "grid"."""
    for line in lines:
        grid = figure.design == "grid"
        seeds = figure.seeds if grid else figure.tuning_seeds
        for rate, outcomes in line.trials.items():
            for seed, outcome in zip(seeds, outcomes):
                yield (
                    Spec(line.variant, line.contender, rate, seed),
                    "grid" if grid else "trial",
                    outcome,
                )
        if not grid:
            for seed, outcome in zip(figure.seeds, line.judged):
                yield Spec(line.variant, line.contender, line.best, seed), "judged", outcome
