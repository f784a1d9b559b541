"""Judges the paper's claims about a figure by its runs.

Every ordering is one test. For two optimizers A and B, take the compared quantity (epochs to a
cost, or a cost) on each seed. The ratios B / A that the seeds allow range from min B / max A to
max B / min A. A claim permits an interval of ratios:

    A ahead of B              above 1: the bands of the seeds do not touch
    A far ahead of B, f       above f
    A about as B, f           from 1/f to f
    A not behind B, f         above 1/f

It is reproduced if all of the measured interval is permitted, not reproduced if none of it is, and
inconclusive otherwise. With three seeds each, two optimizers that do not differ have bands that
lie apart, in one given direction, once in 20 times (3! 3! / 6!).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Callable, Optional

import numpy as np

from ms_adam.lab.claims import Verdict
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

Interval = tuple[float, float]
Pair = tuple[Line, Line]  # with bias correction and without
Finding = tuple[str, str]  # the measured numbers in words, and the status that they give


def judge(figure: PaperFigure, scale: Scale, lines: Sequence[Line]) -> list[Verdict]:
    """Judges every claim of a figure."""
    return [
        _ordering(claim, figure, scale, lines)
        if isinstance(claim, Ordering)
        else _BIAS_CORRECTION[claim.test](
            claim, scale.early if claim.measure == "early" else scale.epochs, _pairs(lines)
        )
        for claim in figure.claims
    ]


def overall(statuses: Iterable[str]) -> str:
    """Status of a claim with several tests: one that fails decides, then one that is open."""
    found = set(statuses)
    return next(
        (status for status in (NOT_REPRODUCED, INCONCLUSIVE) if status in found), REPRODUCED
    )


def allowed(relation: str, factor: float) -> Interval:
    """Returns the interval of ratios second / first that a relation permits."""
    low, high, _ = _RELATIONS[relation](factor)
    return low, high


def interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Returns the least and the largest ratio second / first over the seeds of each.

    Infinite over infinite (neither reached the cost) can be any ratio.
    """

    def ratio(above: float, below: float, unknown: float) -> float:
        if np.isinf(above) and np.isinf(below) or above == below == 0:
            return unknown
        return np.inf if below == 0 else above / below

    return (ratio(min(second), max(first), 0.0), ratio(max(second), min(first), np.inf))


def decide(measured: Interval, permitted: Interval) -> str:
    """Returns the status of a measured interval: all, none or a part of it is permitted."""
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
# The least and the largest ratio that a relation permits, and both in words.
_RELATIONS: dict[str, Callable[[float], tuple[float, float, str]]] = {
    "ahead of": lambda f: (1.0, np.inf, "above 1"),
    "far ahead of": lambda f: (f, np.inf, f"above {f:g}"),
    "about as": lambda f: (1 / f, f, f"from {1 / f:.2g} to {f:g}"),
    "not behind": lambda f: (1 / f, np.inf, f"above {1 / f:.2g}"),
}


def _ordering(claim: Ordering, figure: PaperFigure, scale: Scale, lines: Sequence[Line]) -> Verdict:
    by_name = {(line.variant.label, line.contender.called): line for line in lines}
    panels = claim.variants or [variant.label for variant in figure.variants]
    findings = []
    for panel, test in itertools.product(panels, claim.comparisons):
        first, second = by_name[panel, test.first], by_name[panel, test.second]
        words, status = _compare(claim.measure, test, scale, first, second)
        findings.append((f"{panel}: {words}" if len(figure.variants) > 1 else words, status))
    rules = dict.fromkeys(
        f"{test.first} {test.relation} {test.second}: the ratio is "
        f"{_RELATIONS[test.relation](test.factor)[2]} for any pair of seeds"
        for test in claim.comparisons
    )
    measure = _MEASURES[claim.measure].format(early=scale.early, epochs=scale.epochs)
    test = f"Compared: {measure}; the second's divided by the first's. {'; '.join(rules)}."
    return _verdict(claim.words, test, findings)


def _verdict(words: str, test: str, findings: list[Finding]) -> Verdict:
    measured = [f"{found}: {status}" for found, status in findings]
    return Verdict(words, overall(status for _, status in findings), measured, test=test)


def _compare(measure: str, test: Comparison, scale: Scale, first: Line, second: Line) -> Finding:
    a, b = curves(first.judged), curves(second.judged)
    goal = unit = ""
    if measure == "speed":
        # Both reach it on every seed on which they did not diverge.
        target = max(a.min(axis=1).max(), b.min(axis=1).max())
        goal, unit = f" (to a cost of {_number(target)})", " epochs"
        found = [[steps_to(costs, target) for costs in curve] for curve in (a, b)]
    else:
        epoch = scale.early if measure == "early" else scale.epochs
        found = [list(curve[:, epoch]) for curve in (a, b)]
    ratios = interval(*found)
    status = decide(ratios, allowed(test.relation, test.factor))
    words = (
        f"{test.first} {_band(found[0])}{unit}, {test.second} {_band(found[1])}{unit}{goal}: "
        f"ratio {_ratio(ratios[0])} to {_ratio(ratios[1])}"
    )
    behind = _decisive(test, status, ratios, first, second)
    if behind is not None and behind.at_edge:
        status = INCONCLUSIVE
        words += (
            f"; but the best learning rate of {behind.contender.called}, {behind.best:g}, is "
            "at the edge of its grid"
        )
    return words, status


def _decisive(
    test: Comparison, status: str, ratios: Interval, first: Line, second: Line
) -> Optional[Line]:
    """Returns the line whose lesser result decided.

    At the edge of its grid, a line may be behind only because better rates were not tried.
    """
    if status == REPRODUCED:
        return None if test.relation == "about as" else second
    if status == NOT_REPRODUCED:
        return second if test.relation == "about as" and ratios[0] > test.factor else first
    return None


def _pairs(lines: Sequence[Line]) -> dict[tuple[float, float], Pair]:
    """Maps each (beta1, beta2) to its line with bias correction and its line without."""
    found: dict[tuple[float, float], dict[bool, Line]] = {}
    for line in lines:
        settings = line.contender.settings
        betas = (settings["beta1"], settings["beta2"])
        found.setdefault(betas, {})[bool(settings["bias_correction"])] = line
    return {betas: (both[True], both[False]) for betas, both in sorted(found.items())}


def _unstable(claim: BiasCorrection, epoch: int, pairs: dict[tuple, Pair]) -> Verdict:
    """Counts, for each seed, the step sizes whose cost is no lower than before training."""
    findings = []
    for beta1 in dict.fromkeys(beta1 for beta1, _ in pairs):
        # {beta2: (with correction, without)}, each a count for every seed
        broken = {
            beta2: [_broken(line, epoch) for line in pair]
            for (other, beta2), pair in pairs.items()
            if other == beta1
        }
        corrected, uncorrected = broken[max(broken)]
        status = overall(
            decide(_differences(uncorrected, others), (0.5, np.inf))
            for others in (corrected, broken[min(broken)][1])
        )
        counts = "; ".join(
            f"beta2 {beta2:g}: {_each(without)} without, {_each(with_it)} with"
            for beta2, (with_it, without) in broken.items()
        )
        findings.append((f"beta1 {beta1:g}, unstable step sizes by seed: {counts}", status))
    test = (
        f"A step size is unstable where the cost of epoch {epoch} is not below that before "
        "training. Without correction at the largest beta2 more of them are unstable than with "
        "it there, and more than without it at the smallest beta2, on every seed, at every "
        "beta1."
    )
    return _verdict(claim.words, test, findings)


def _broken(line: Line, epoch: int) -> list[int]:
    return [
        sum(not outcome.costs[epoch] < outcome.costs[0] for outcome in of_seed)
        for of_seed in zip(*line.trials.values())
    ]


def _differences(more: Sequence[int], less: Sequence[int]) -> Interval:
    differences = [a - b for a, b in zip(more, less)]
    return min(differences), max(differences)


def _each(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def _at_best(claim: BiasCorrection, epoch: int, pairs: dict[tuple, Pair]) -> Verdict:
    findings = []
    for (beta1, beta2), pair in pairs.items():
        rates = [
            min(line.trials, key=lambda rate, line=line: mean_cost(line.trials[rate], epoch))
            for line in pair
        ]
        bands, _, status = _at_rates(claim, epoch, pair, rates)
        findings.append(
            (
                f"beta1 {beta1:g}, beta2 {beta2:g}: with {bands[0]} at {rates[0]:g}, "
                f"without {bands[1]} at {rates[1]:g}",
                status,
            )
        )
    test = (
        f"At the best step size of each, the cost of epoch {epoch} without correction divided "
        f"by that with it: at least {1 / claim.factor:.3g} for any pair of seeds, at every "
        "beta1 and beta2."
    )
    return _verdict(claim.words, test, findings)


def _anywhere(claim: BiasCorrection, epoch: int, pairs: dict[tuple, Pair]) -> Verdict:
    statuses, worst = [], (np.inf, "")
    for (beta1, beta2), pair in pairs.items():
        for rate in pair[0].trials:
            bands, least, status = _at_rates(claim, epoch, pair, (rate, rate))
            statuses.append(status)
            where = f"beta1 {beta1:g}, beta2 {beta2:g}, step size {rate:g}"
            words = f"{where}: with {bands[0]}, without {bands[1]}"
            worst = min(worst, (least, words), key=lambda found: found[0])
    measured = [
        f"{statuses.count(REPRODUCED)} of {len(statuses)} settings hold, "
        f"{statuses.count(NOT_REPRODUCED)} do not, {statuses.count(INCONCLUSIVE)} are open; "
        f"furthest against it: {worst[1]}"
    ]
    test = (
        f"At every beta1, beta2 and step size, the cost of epoch {epoch} without correction "
        f"divided by that with it: at least {1 / claim.factor:.3g} for any pair of seeds."
    )
    return Verdict(claim.words, overall(statuses), measured, test=test)


def _at_rates(
    claim: BiasCorrection, epoch: int, pair: Pair, rates: Sequence[float]
) -> tuple[list[str], float, str]:
    """Compares costs at one step size each.

    Returns:
        Both bands of costs; the least ratio, infinite where a cost is; and the status.
    """
    found = [list(curves(line.trials[rate])[:, epoch]) for line, rate in zip(pair, rates)]
    ratios = interval(*found)
    least = np.inf if np.isinf(max(found[0] + found[1])) else ratios[0]
    return [_band(costs) for costs in found], least, decide(ratios, (1 / claim.factor, np.inf))


_BIAS_CORRECTION = {
    "unstable without": _unstable,
    "not worse at best": _at_best,
    "not worse anywhere": _anywhere,
}


def _band(values: Sequence[float]) -> str:
    least, largest = _number(min(values)), _number(max(values))
    return least if least == largest else f"{least} to {largest}"


def _number(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:.4g}"


def _ratio(value: float) -> str:
    return "any" if np.isinf(value) else _number(value)
