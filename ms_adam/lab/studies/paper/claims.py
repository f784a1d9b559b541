"""The judgement: is what the paper says of a figure so in these runs?

Every ordering is one test. Of two optimizers A and B take what is compared (epochs to a cost, or a
cost) on each seed; the ratios B / A that the seeds allow reach from min B / max A to max B / min A.
A claim allows an interval of ratios:

    A ahead of B              above 1: the bands of the seeds do not touch
    A far ahead of B, f       above f
    A about as B, f           from 1/f to f
    A not behind B, f         above 1/f

It is reproduced if all of the measured interval is allowed, not reproduced if none of it is, and
inconclusive otherwise. With three seeds each, two optimizers that do not differ have bands that
lie apart, in one given direction, once in 20 times (3! 3! / 6!).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Optional

import numpy as np

from ms_adam.lab.studies.paper.config import (
    BiasCorrection,
    Comparison,
    Ordering,
    PaperFigure,
    Scale,
)
from ms_adam.lab.studies.paper.sweep import Line, curves, mean_cost, steps_to

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
INCONCLUSIVE = "inconclusive"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One judged claim: what the paper says, how it was tested, what was found."""

    claim: str
    test: str
    status: str
    measured: list[str]


def judge(figure: PaperFigure, scale: Scale, lines: Sequence[Line]) -> list[Verdict]:
    """Judges every claim of a figure."""
    return [
        _ordering(claim, figure, scale, lines)
        if isinstance(claim, Ordering)
        else _bias_correction(claim, figure, scale, lines)
        for claim in figure.claims
    ]


def overall(statuses: Sequence[str]) -> str:
    """Of a claim with several tests: one that fails decides, then one that is open."""
    return next(
        (status for status in (NOT_REPRODUCED, INCONCLUSIVE) if status in statuses), REPRODUCED
    )


def allowed(relation: str, factor: float) -> tuple[float, float]:
    """The interval of ratios second / first that a relation allows."""
    return {
        "ahead of": (1.0, np.inf),
        "far ahead of": (factor, np.inf),
        "about as": (1 / factor, factor),
        "not behind": (1 / factor, np.inf),
    }[relation]


def interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The least and the largest ratio second / first over the seeds of each.

    Infinite over infinite, neither got there, is any ratio at all.
    """

    def ratio(above: float, below: float, unknown: float) -> float:
        if np.isinf(above) and np.isinf(below) or above == below == 0:
            return unknown
        return np.inf if below == 0 else above / below

    return (ratio(min(second), max(first), 0.0), ratio(max(second), min(first), np.inf))


def decide(measured: tuple[float, float], permitted: tuple[float, float]) -> str:
    """Whether all of an interval is permitted, none of it, or a part."""
    least, largest = measured
    low, high = permitted
    strict = np.isinf(high) and low >= 1  # "ahead" is more than level
    if (least > low if strict else least >= low) and largest <= high:
        return REPRODUCED
    if largest < low or least > high or (strict and largest == low):
        return NOT_REPRODUCED
    return INCONCLUSIVE


_MEASURES = {
    "speed": "epochs until the cost is for the first time that of the slower one's best epoch",
    "early": "mean cost of epoch {early}",
    "end": "mean cost of epoch {epochs}, the last",
}
_RELATIONS = {
    "ahead of": "{first} ahead of {second}: the ratio is above 1 for any pair of seeds",
    "far ahead of": "{first} far ahead of {second}: the ratio is above {factor:g} for any pair of "
    "seeds",
    "about as": "{first} about as {second}: the ratio is from {inverse:.2g} to {factor:g} for any "
    "pair of seeds",
    "not behind": "{first} not behind {second}: the ratio is above {inverse:.2g} for any pair of "
    "seeds",
}


def _ordering(claim: Ordering, figure: PaperFigure, scale: Scale, lines: Sequence[Line]) -> Verdict:
    measured, statuses = [], []
    panels = claim.variants or [variant.label for variant in figure.variants]
    for panel in panels:
        of_panel = {line.contender.called: line for line in lines if line.variant.label == panel}
        for test in claim.comparisons:
            first, second = of_panel[test.first], of_panel[test.second]
            status, words = _compare(claim.measure, test, scale, first, second)
            statuses.append(status)
            measured.append(f"{panel + ': ' if len(figure.variants) > 1 else ''}{words}")
    rules = "; ".join(
        dict.fromkeys(
            _RELATIONS[test.relation].format(
                first=test.first, second=test.second, factor=test.factor, inverse=1 / test.factor
            )
            for test in claim.comparisons
        )
    )
    measure = _MEASURES[claim.measure].format(early=scale.early, epochs=scale.epochs)
    test = f"Compared: {measure}; the second's divided by the first's. {rules}."
    return Verdict(claim.words, test, overall(statuses), measured)


def _compare(
    measure: str, test: Comparison, scale: Scale, first: Line, second: Line
) -> tuple[str, str]:
    a, b = curves(first.judged), curves(second.judged)
    goal = ""
    if measure == "speed":
        # Both reach it on every seed on which they did not diverge.
        target = max(a.min(axis=1).max(), b.min(axis=1).max())
        goal = f" (to a cost of {_number(target)})"
        found = [[steps_to(costs, target) for costs in curve] for curve in (a, b)]
        unit = " epochs"
    else:
        epoch = scale.early if measure == "early" else scale.epochs
        found = [list(curve[:, epoch]) for curve in (a, b)]
        unit = ""
    ratios = interval(*found)
    status = decide(ratios, allowed(test.relation, test.factor))
    words = (
        f"{test.first} {_band(found[0])}{unit}, {test.second} {_band(found[1])}{unit}{goal}: "
        f"ratio {_ratio(ratios[0])} to {_ratio(ratios[1])}"
    )
    short = _fell_short(test, status, ratios, first, second)
    if short is not None and short.at_edge:
        status = INCONCLUSIVE
        words += (
            f"; but the best learning rate of {short.contender.called}, {short.best:g}, is "
            "at the edge of its grid"
        )
    return status, f"{words}: {status}"


def _fell_short(
    test: Comparison, status: str, ratios: tuple[float, float], first: Line, second: Line
) -> Optional[Line]:
    """Whose lesser result decided; at the edge of its grid it could be less for that alone."""
    if status == REPRODUCED:
        return None if test.relation == "about as" else second
    if status == NOT_REPRODUCED:
        return second if test.relation == "about as" and ratios[0] > test.factor else first
    return None


def _bias_correction(
    claim: BiasCorrection, figure: PaperFigure, scale: Scale, lines: Sequence[Line]
) -> Verdict:
    epoch = scale.early if claim.measure == "early" else scale.epochs
    pairs = _pairs(lines)
    decided = {
        "unstable without": _unstable,
        "not worse at best": _at_best,
        "not worse anywhere": _anywhere,
    }[claim.test]
    return decided(claim, epoch, pairs)


def _pairs(lines: Sequence[Line]) -> dict[tuple[float, float], tuple[Line, Line]]:
    """Of each (beta1, beta2), the line with bias correction and the one without."""
    found: dict[tuple[float, float], dict[bool, Line]] = {}
    for line in lines:
        settings = line.contender.settings
        betas = (settings["beta1"], settings["beta2"])
        found.setdefault(betas, {})[bool(settings["bias_correction"])] = line
    return {betas: (both[True], both[False]) for betas, both in sorted(found.items())}


def _unstable(claim: BiasCorrection, epoch: int, pairs: dict) -> Verdict:
    """At how many step sizes the cost is no lower than before training, of each seed."""
    measured, statuses = [], []
    for beta1 in dict.fromkeys(beta1 for beta1, _ in pairs):
        beta2s = [beta2 for other, beta2 in pairs if other == beta1]
        with_it, without = (
            {beta2: _broken(pairs[beta1, beta2][side], epoch) for beta2 in beta2s}
            for side in (0, 1)
        )
        largest, smallest = max(beta2s), min(beta2s)
        status = overall(
            [
                decide(_differences(without[largest], others), (0.5, np.inf))
                for others in (with_it[largest], without[smallest])
            ]
        )
        statuses.append(status)
        said = "; ".join(
            f"beta2 {beta2:g}: {_each(without[beta2])} without, {_each(with_it[beta2])} with"
            for beta2 in beta2s
        )
        measured.append(f"beta1 {beta1:g}, unstable step sizes by seed: {said}: {status}")
    test = (
        f"A step size is unstable where the cost of epoch {epoch} is not below that before "
        "training. Without correction at the largest beta2 more of them are unstable than with "
        "it there, and more than without it at the smallest beta2, on every seed, at every "
        "beta1."
    )
    return Verdict(claim.words, test, overall(statuses), measured)


def _broken(line: Line, epoch: int) -> list[int]:
    by_seed = zip(*line.trials.values())
    return [
        sum(not outcome.costs[epoch] < outcome.costs[0] for outcome in outcomes)
        for outcomes in by_seed
    ]


def _differences(more: Sequence[int], less: Sequence[int]) -> tuple[int, int]:
    differences = [a - b for a, b in zip(more, less)]
    return min(differences), max(differences)


def _each(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def _at_best(claim: BiasCorrection, epoch: int, pairs: dict) -> Verdict:
    measured, statuses = [], []
    for (beta1, beta2), both in pairs.items():
        rates = [
            min(line.trials, key=lambda rate, line=line: mean_cost(line.trials[rate], epoch))
            for line in both
        ]
        found = [list(curves(line.trials[rate])[:, epoch]) for line, rate in zip(both, rates)]
        ratios = interval(*found)
        statuses.append(decide(ratios, (1 / claim.factor, np.inf)))
        measured.append(
            f"beta1 {beta1:g}, beta2 {beta2:g}: with {_band(found[0])} at "
            f"{rates[0]:g}, without {_band(found[1])} at {rates[1]:g}: {statuses[-1]}"
        )
    test = (
        f"At the best step size of each, the cost of epoch {epoch} without correction divided "
        f"by that with it: at least {1 / claim.factor:.3g} for any pair of seeds, at every "
        "beta1 and beta2."
    )
    return Verdict(claim.words, test, overall(statuses), measured)


def _anywhere(claim: BiasCorrection, epoch: int, pairs: dict) -> Verdict:
    counts, worst = {REPRODUCED: 0, INCONCLUSIVE: 0, NOT_REPRODUCED: 0}, (np.inf, "")
    for (beta1, beta2), (with_it, without) in pairs.items():
        for rate in with_it.trials:
            found = [list(curves(line.trials[rate])[:, epoch]) for line in (with_it, without)]
            ratios = interval(*found)
            counts[decide(ratios, (1 / claim.factor, np.inf))] += 1
            if ratios[0] < worst[0] and not np.isinf(max(found[0] + found[1])):
                worst = (
                    ratios[0],
                    f"beta1 {beta1:g}, beta2 {beta2:g}, step size {rate:g}: with "
                    f"{_band(found[0])}, without {_band(found[1])}",
                )
    measured = [
        f"{counts[REPRODUCED]} of {sum(counts.values())} settings hold, "
        f"{counts[NOT_REPRODUCED]} do not, {counts[INCONCLUSIVE]} are open; furthest "
        f"against it: {worst[1]}"
    ]
    test = (
        f"At every beta1, beta2 and step size, the cost of epoch {epoch} without correction "
        f"divided by that with it: at least {1 / claim.factor:.3g} for any pair of seeds."
    )
    statuses = [status for status, count in counts.items() if count]
    return Verdict(claim.words, test, overall(statuses), measured)


def _band(values: Sequence[float]) -> str:
    least, largest = _number(min(values)), _number(max(values))
    return least if least == largest else f"{least} to {largest}"


def _number(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:.4g}"


def _ratio(value: float) -> str:
    return "any" if np.isinf(value) else _number(value)
