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

`interval`, `decide` and `overall` are this rule; the other functions measure and put into words.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Optional

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
Pairs = dict[tuple[float, float], tuple[Line, Line]]  # by betas: with bias correction and without
Finding = tuple[str, str]  # the measured numbers in words, and the status that they give


# --- the rule ------------------------------------------------------------------------------------


def allowed(relation: str, factor: float) -> tuple[float, float, str]:
    """Returns the least and the largest ratio second / first of a relation, and both in words."""
    return {
        "ahead of": (1.0, np.inf, "above 1"),
        "far ahead of": (factor, np.inf, f"above {factor:g}"),
        "about as": (1 / factor, factor, f"from {1 / factor:.2g} to {factor:g}"),
        "not behind": (1 / factor, np.inf, f"above {1 / factor:.2g}"),
    }[relation]


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


def overall(statuses: Iterable[str]) -> str:
    """Status of a claim with several tests: one that fails decides, then one that is open."""
    found = set(statuses)
    return next(
        (status for status in (NOT_REPRODUCED, INCONCLUSIVE) if status in found), REPRODUCED
    )


def judge(figure: PaperFigure, scale: Scale, lines: Sequence[Line]) -> list[Verdict]:
    """Judges every claim of a figure."""
    verdicts = []
    for claim in figure.claims:
        epoch = scale.early if claim.measure == "early" else scale.epochs
        if isinstance(claim, Ordering):
            verdicts.append(_ordering(claim, epoch, figure, lines))
        else:
            measure = _unstable if claim.test == "unstable without" else _not_worse
            verdicts.append(measure(claim, epoch, _pairs(lines)))
    return verdicts


def _verdict(words: str, test: str, findings: Sequence[Finding]) -> Verdict:
    measured = [f"{found}: {status}" for found, status in findings]
    return Verdict(words, overall(status for _, status in findings), measured, test=test)


# --- orderings -----------------------------------------------------------------------------------


def _ordering(claim: Ordering, epoch: int, figure: PaperFigure, lines: Sequence[Line]) -> Verdict:
    by_name = {(line.variant.label, line.contender.called): line for line in lines}
    panels = claim.variants or [variant.label for variant in figure.variants]
    findings = []
    for panel, test in itertools.product(panels, claim.comparisons):
        of_panel = by_name[panel, test.first], by_name[panel, test.second]
        words, status = _compare(claim.measure, epoch, test, *of_panel)
        findings.append((f"{panel}: {words}" if len(figure.variants) > 1 else words, status))
    rules = dict.fromkeys(
        f"{test.first} {test.relation} {test.second}: the ratio is "
        f"{allowed(test.relation, test.factor)[2]} for any pair of seeds"
        for test in claim.comparisons
    )
    compared = {
        "speed": "epochs until the cost is for the first time that of the slower one's best epoch",
        "early": f"mean cost of epoch {epoch}",
        "end": f"mean cost of epoch {epoch}, the last",
    }[claim.measure]
    test = f"Compared: {compared}; the second's divided by the first's. {'; '.join(rules)}."
    return _verdict(claim.words, test, findings)


def _compare(measure: str, epoch: int, test: Comparison, first: Line, second: Line) -> Finding:
    both = [curves(line.judged) for line in (first, second)]
    goal = unit = ""
    if measure == "speed":
        # Both reach it on every seed on which they did not diverge.
        target = max(of_line.min(axis=1).max() for of_line in both)
        goal, unit = f" (to a cost of {_number(target)})", " epochs"
        found = [[steps_to(costs, target) for costs in of_line] for of_line in both]
    else:
        found = [list(of_line[:, epoch]) for of_line in both]
    ratios = interval(*found)
    status = decide(ratios, allowed(test.relation, test.factor)[:2])
    least, largest = ("any" if np.isinf(ratio) else _number(ratio) for ratio in ratios)
    words = (
        f"{test.first} {_band(found[0])}{unit}, {test.second} {_band(found[1])}{unit}{goal}: "
        f"ratio {least} to {largest}"
    )
    # At the edge of its grid, a line may be behind only because better rates were not tried.
    behind: Optional[Line] = None  # the line whose lesser result decided
    if status == REPRODUCED and test.relation != "about as":
        behind = second
    elif status == NOT_REPRODUCED:
        behind = second if test.relation == "about as" and ratios[0] > test.factor else first
    if behind is not None and behind.at_edge:
        status = INCONCLUSIVE
        words += (
            f"; but the best learning rate of {behind.contender.called}, {behind.best:g}, is "
            "at the edge of its grid"
        )
    return words, status


# --- bias correction -----------------------------------------------------------------------------


def _pairs(lines: Sequence[Line]) -> Pairs:
    found: dict[tuple[float, float], dict[bool, Line]] = {}
    for line in lines:
        settings = line.contender.settings
        betas = (settings["beta1"], settings["beta2"])
        found.setdefault(betas, {})[bool(settings["bias_correction"])] = line
    return {betas: (both[True], both[False]) for betas, both in sorted(found.items())}


def _unstable(claim: BiasCorrection, epoch: int, pairs: Pairs) -> Verdict:
    """Counts, for each seed, the step sizes whose cost is no lower than before training."""

    def broken(line: Line) -> list[int]:
        return [
            sum(not outcome.costs[epoch] < outcome.costs[0] for outcome in of_seed)
            for of_seed in zip(*line.trials.values())
        ]

    findings = []
    for beta1 in dict.fromkeys(beta1 for beta1, _ in pairs):
        counts = {
            beta2: [broken(line) for line in pair]
            for (other, beta2), pair in pairs.items()
            if other == beta1
        }
        corrected, uncorrected = counts[max(counts)]
        more = [
            [a - b for a, b in zip(uncorrected, others)]
            for others in (corrected, counts[min(counts)][1])
        ]
        status = overall(decide((min(each), max(each)), (0.5, np.inf)) for each in more)
        words = "; ".join(
            f"beta2 {beta2:g}: {', '.join(map(str, without))} without, "
            f"{', '.join(map(str, with_it))} with"
            for beta2, (with_it, without) in counts.items()
        )
        findings.append((f"beta1 {beta1:g}, unstable step sizes by seed: {words}", status))
    test = (
        f"A step size is unstable where the cost of epoch {epoch} is not below that before "
        "training. Without correction at the largest beta2 more of them are unstable than with "
        "it there, and more than without it at the smallest beta2, on every seed, at every "
        "beta1."
    )
    return _verdict(claim.words, test, findings)


def _not_worse(claim: BiasCorrection, epoch: int, pairs: Pairs) -> Verdict:
    """Compares costs with and without correction, at the best step size of each or at every one."""
    anywhere = claim.test == "not worse anywhere"
    found = []
    for (beta1, beta2), pair in pairs.items():
        best = [
            min(line.trials, key=lambda rate, line=line: mean_cost(line.trials[rate], epoch))
            for line in pair
        ]
        for rates in [(rate, rate) for rate in pair[0].trials] if anywhere else [best]:
            costs = [list(curves(line.trials[rate])[:, epoch]) for line, rate in zip(pair, rates)]
            ratios = interval(*costs)
            least = np.inf if np.isinf(max(costs[0] + costs[1])) else ratios[0]
            with_it, without = map(_band, costs)
            words = f"beta1 {beta1:g}, beta2 {beta2:g}"
            if anywhere:
                words += f", step size {rates[0]:g}: with {with_it}, without {without}"
            else:
                words += f": with {with_it} at {rates[0]:g}, without {without} at {rates[1]:g}"
            found.append((least, (words, decide(ratios, (1 / claim.factor, np.inf)))))
    findings = [finding for _, finding in found]
    ratio = (
        f"the cost of epoch {epoch} without correction divided by that with it: at least "
        f"{1 / claim.factor:.3g} for any pair of seeds"
    )
    if not anywhere:
        test = f"At the best step size of each, {ratio}, at every beta1 and beta2."
        return _verdict(claim.words, test, findings)
    statuses = [status for _, status in findings]
    _, (worst, _) = min(found, key=lambda one: one[0])
    measured = (
        f"{statuses.count(REPRODUCED)} of {len(statuses)} settings hold, "
        f"{statuses.count(NOT_REPRODUCED)} do not, {statuses.count(INCONCLUSIVE)} are open; "
        f"furthest against it: {worst}"
    )
    test = f"At every beta1, beta2 and step size, {ratio}."
    return Verdict(claim.words, overall(statuses), [measured], test=test)


def _band(values: Sequence[float]) -> str:
    least, largest = _number(min(values)), _number(max(values))
    return least if least == largest else f"{least} to {largest}"


def _number(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:.4g}"
