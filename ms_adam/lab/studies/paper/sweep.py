"""The grid search: the runs of a figure, and the choice of each optimizer's learning rate.

Every optimizer gets the same number of learning rates on the tuning seeds. If the one with the
lowest cost at the end is the least or the largest, some beyond it are tried too. The best then runs
on the judged seeds, which had no part in the choice.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple

import numpy as np

from ms_adam.lab.studies.paper.config import Contender, PaperFigure, Scale, Variant


class Outcome(NamedTuple):
    """The result of a run."""

    # float64, shape (epochs + 1,): of the first batch before any step, then the mean over the
    # batches of each epoch, each before its step; or of the examples held out, before any step and
    # after each epoch. Infinite from where it diverged.
    costs: np.ndarray
    steps: int  # number of steps until the end, or until the cost was not finite
    seconds: float  # their time

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

    def digest(self, figure: PaperFigure, scale: Scale, surroundings: dict[str, Any]) -> str:
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
Key = tuple[str, str]  # the labels of a line's variant and optimizer


class Run(NamedTuple):
    """A run of a sweep; its purpose is "trial", "judged" or "grid"."""

    spec: Spec
    purpose: str
    outcome: Outcome


class Line(NamedTuple):
    """One optimizer in one variant."""

    variant: Variant
    contender: Contender
    trials: dict[float, list[Outcome]]  # the outcomes of each learning rate, one for each seed
    best: float  # the learning rate with the lowest cost at the end
    # The outcomes at the best learning rate on the judged seeds, in their order.
    judged: list[Outcome]
    runs: Sequence[Run] = ()  # all runs, in their order

    @property
    def key(self) -> Key:
        return self.variant.label, self.contender.called

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate is the least or the largest one of several.

        More trials could then find a better one.
        """
        return len(self.trials) > 1 and self.best in (min(self.trials), max(self.trials))


def sweep(figure: PaperFigure, scale: Scale, get: Get, seeds: Mapping[Key, int] = {}) -> list[Line]:
    """Gets all runs of a figure in their order: by variant, by optimizer, trials first.

    `seeds` says how many of the judged seeds a line runs on; a line that is not there runs on those
    of the scale's first look.
    """
    lines = []
    for variant, contender in lines_of(figure):
        count = seeds.get((variant.label, contender.called), scale.looks[0])
        lines.append(sweep_line(figure, scale, variant, contender, get, count))
    return lines


def lines_of(figure: PaperFigure) -> Iterator[tuple[Variant, Contender]]:
    """Yields variant and optimizer of each line. No line needs the runs of another."""
    return itertools.product(figure.variants, figure.optimizers)


def sweep_line(
    figure: PaperFigure, scale: Scale, variant: Variant, contender: Contender, get: Get, seeds: int
) -> Line:
    """Gets all runs of one line, trials first, on so many of the judged seeds."""
    runs: list[Run] = []

    def outcomes(purpose: str, rate: float, seeds: Sequence[int]) -> list[Outcome]:
        specs = [Spec(variant, contender, rate, seed) for seed in seeds]
        runs.extend(Run(spec, purpose, get(spec)) for spec in specs)
        return [run.outcome for run in runs[-len(specs) :]]

    grid = figure.design == "grid"
    judged = figure.seeds[:seeds]
    of_trial = ("grid", judged) if grid else ("trial", figure.tuning_seeds)

    def try_out(rates: Sequence[float]) -> dict[float, list[Outcome]]:
        return {rate: outcomes(of_trial[0], rate, of_trial[1]) for rate in rates}

    trials = try_out(contender.trials(scale.trials))
    if not grid:
        trials.update(try_out(beyond_edge(trials, scale.beyond_edge)))
    trials = {rate: trials[rate] for rate in sorted(trials)}
    best = best_rate(trials)
    of_best = trials[best] if grid else outcomes("judged", best, judged)
    return Line(variant, contender, trials, best, of_best, runs)


def beyond_edge(trials: dict[float, list[Outcome]], count: int) -> list[float]:
    """Returns so many learning rates beyond the best one, if it is the least or the largest.

    Each is as far from the one before, as a ratio, as the best is from its neighbour.
    """
    rates, best = sorted(trials), best_rate(trials)
    inside = len(rates) < 2 or best not in (rates[0], rates[-1])
    if inside or math.isinf(mean_cost(trials[best], -1)):
        return []
    step = best / (rates[1] if best == rates[0] else rates[-2])
    return [float(f"{best * step**number:.2g}") for number in range(1, count + 1)]


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
