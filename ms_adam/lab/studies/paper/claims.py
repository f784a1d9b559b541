"""Judges the claims about a figure by its runs, and says which claims more seeds may decide.

All optimizers of a seed share first weights, batches and noise, so every test is paired: it takes,
on each seed, the logarithm of the ratio second / first of the compared quantity (epochs to a cost,
or a cost). A claim permits an interval of ratios:

    A ahead of B              above 1
    A far ahead of B, f       above f
    A about as B, f           from 1/f to f: an equivalence test, whose margin is f
    A not behind B, f         above 1/f

It is reproduced if the bounds of `ms_adam.lab.sequential` on the mean logarithm are within the
permitted interval, not reproduced if they are outside, and inconclusive otherwise. They hold at
every number of seeds, so a test is made at each look of the scale until one decides.

The figure's ``error`` is the probability that the verdict on a claim is false. Of a claim with
several tests all must hold and one that fails decides. So a test may hold at the whole error (the
test that is false in truth must hold for a false "reproduced"), while the ways to fail share it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Optional, Union

import numpy as np

from ms_adam.lab.claims import Verdict
from ms_adam.lab.sequential import Bounds, bounds, needed
from ms_adam.lab.studies.paper.config import BiasCorrection, Ordering, PaperFigure, Scale
from ms_adam.lab.studies.paper.sweep import Key, Line, curves, steps_to

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
INCONCLUSIVE = "inconclusive"

# A claim that needs more than this many times the most seeds gets no more of them.
_HOPELESS = 5

Pairs = dict[tuple[float, float], dict[bool, Line]]  # by betas: with bias correction, and without
AnyClaim = Union[Ordering, BiasCorrection]


class Test(NamedTuple):
    """One paired test of a claim."""

    lines: tuple[Line, Line]
    compared: Sequence[np.ndarray]  # of each line, a cost, a number of epochs or a count by seed
    words: tuple[str, str, str]  # before, between and after the two lines' numbers
    permitted: Bounds  # of the log-ratio second / first, or of the difference of counts
    counts: bool = False
    searched: bool = False  # whether the learning rates of its lines were chosen from a grid

    @property
    def ways(self) -> int:
        """In how many ways it may fail."""
        return sum(math.isfinite(bound) for bound in self.permitted)


class Finding(NamedTuple):
    """What a test found at the last look, or at the one that decided it."""

    words: str
    status: str
    interval: str  # the centre and its bounds, in words
    seeds: int
    lines: frozenset[Key]
    open: bool  # whether more seeds may decide it
    permitted: bool  # whether the centre is
    needed: Optional[int]  # the seeds that would decide it, if it is open and this can be told


class Judged(NamedTuple):
    """A verdict, and what it would take to decide it."""

    verdict: Verdict
    wanted: frozenset[Key]  # the lines whose further seeds may decide it; none if it is hopeless


# --- the rule ------------------------------------------------------------------------------------


def allowed(relation: str, factor: float) -> tuple[Bounds, str]:
    """Returns the permitted log-ratios second / first of a relation, and the ratios in words."""
    far = math.log(factor)
    return {
        "ahead of": (Bounds(0.0, math.inf), "above 1"),
        "far ahead of": (Bounds(far, math.inf), f"above {factor:g}"),
        "about as": (Bounds(-far, far), f"from {1 / factor:.3g} to {factor:g}"),
        "not behind": (Bounds(-far, math.inf), f"above {1 / factor:.3g}"),
    }[relation]


def decide(measured: Bounds, permitted: Bounds) -> str:
    """Returns the status of measured bounds: all, none or a part between them is permitted."""
    below = measured.high < permitted.high or math.isinf(permitted.high)
    if below and measured.low > permitted.low:
        return REPRODUCED
    if measured.high <= permitted.low or measured.low >= permitted.high:
        return NOT_REPRODUCED
    return INCONCLUSIVE


def overall(statuses: Iterable[str]) -> str:
    """Status of a claim with several tests: one that fails decides, then one that is open."""
    found = set(statuses)
    return next(
        (status for status in (NOT_REPRODUCED, INCONCLUSIVE) if status in found), REPRODUCED
    )


def examine(test: Test, looks: Sequence[int], error: float, ways: int) -> Finding:
    """Carries out a test of a claim that may fail in so many ways, until a look decides it."""
    there = min(map(len, test.compared))
    for look in looks:
        if look <= there:
            finding = _at_look(test, look, error, ways)
            if not finding.open:
                break
    return finding


def _at_look(test: Test, look: int, error: float, ways: int) -> Finding:
    permitted, counts = test.permitted, test.counts
    first, second = (of_line[:look] for of_line in test.compared)
    values = first - second if counts else _log_ratios(first, second)
    # Either of the two sides of an equivalence may fail.
    errors = (error if math.isinf(permitted.high) else error / ways, error / ways)
    measured = bounds(values, *errors, counts)
    status = decide(measured, permitted)
    is_open = status == INCONCLUSIVE
    takes = needed(values, permitted, *errors, counts) if is_open else None
    centre = float(np.mean(values) if np.isfinite(values).all() else np.median(values))
    inside = permitted.low < centre < permitted.high
    interval = _interval(centre, measured, counts)
    before, between, after = test.words
    words = f"{before}{_band(first)}{between}{_band(second)}{after}: "
    words += f"{'' if counts else 'ratio '}{interval}, {look} seeds"
    # At the edge of its grid, a line may be behind only because better rates were not tried.
    behind: Optional[Line] = None  # the line whose lesser result decided
    if status == REPRODUCED and math.isinf(permitted.high):
        behind = test.lines[1]
    elif status == NOT_REPRODUCED:
        behind = test.lines[measured.low >= permitted.high]
    if behind is not None and test.searched and behind.at_edge:
        status = INCONCLUSIVE
        words += (
            f"; but the best learning rate of {behind.contender.called}, {behind.best:g}, is "
            "at the edge of its grid"
        )
    keys = frozenset(line.key for line in test.lines)
    return Finding(f"{words}: {status}", status, interval, look, keys, is_open, inside, takes)


def judge(figure: PaperFigure, scale: Scale, lines: Sequence[Line]) -> list[Judged]:
    """Judges every claim of a figure at its looks, as far as the seeds of its lines go."""
    return [_judge(claim, figure, scale, lines) for claim in figure.claims]


def _judge(claim: AnyClaim, figure: PaperFigure, scale: Scale, lines: Sequence[Line]) -> Judged:
    epoch = scale.early if claim.measure == "early" else scale.epochs
    if isinstance(claim, Ordering):
        tests, rule = _orderings(claim, epoch, figure, lines)
    elif claim.test == "unstable without":
        tests, rule = _unstable(epoch, _pairs(lines))
    else:
        tests, rule = _not_worse(claim, epoch, _pairs(lines))
    ways = sum(test.ways for test in tests)
    found = [examine(test, scale.looks, figure.error, ways) for test in tests]
    status = overall(finding.status for finding in found)
    takes, wanted = _takes(found)
    hopeful = status == INCONCLUSIVE and takes is not None
    hopeful = hopeful and takes <= _HOPELESS * scale.looks[-1]
    deciding = _deciding(found, status, takes)
    verdict = Verdict(
        claim.words,
        status,
        _measured(found, getattr(claim, "test", "") == "not worse anywhere"),
        test=rule,
        seeds=deciding.seeds,
        interval=deciding.interval,
        needed=takes if status == INCONCLUSIVE else None,
    )
    return Judged(verdict, wanted if hopeful else frozenset())


def _takes(findings: Sequence[Finding]) -> tuple[Optional[int], frozenset[Key]]:
    """Returns how many seeds decide a claim, and of which lines.

    One test that will fail does, or else all that are open.
    """
    left = [finding for finding in findings if finding.open]
    failing = [of for of in left if of.needed is not None and not of.permitted]
    if failing:
        left = [min(failing, key=lambda finding: finding.needed)]
    takes = [finding.needed for finding in left]
    lines = frozenset().union(*(finding.lines for finding in left))
    return None if None in takes or not takes else max(takes), lines


def _deciding(findings: Sequence[Finding], status: str, takes: Optional[int]) -> Finding:
    """The test that stands for a claim: the first that failed, or that which took most seeds."""
    alike = [finding for finding in findings if finding.status == status]
    if status == NOT_REPRODUCED:
        return min(alike, key=lambda finding: finding.seeds)
    if status == INCONCLUSIVE:
        return next((finding for finding in alike if finding.needed == takes), alike[0])
    return max(alike, key=lambda finding: finding.seeds)


def _measured(findings: Sequence[Finding], many: bool) -> list[str]:
    if not many:
        return [finding.words for finding in findings]
    statuses = [finding.status for finding in findings]
    counts = ", ".join(
        f"{statuses.count(status)} {words}"
        for status, words in ((REPRODUCED, "hold"), (NOT_REPRODUCED, "do not"))
    )
    worst = NOT_REPRODUCED if NOT_REPRODUCED in statuses else INCONCLUSIVE
    told = [finding.words for finding in findings if finding.status == worst]
    return [f"{counts}, {statuses.count(INCONCLUSIVE)} are open of {len(findings)} settings", *told]


# --- orderings -----------------------------------------------------------------------------------


def _orderings(
    claim: Ordering, epoch: int, figure: PaperFigure, lines: Sequence[Line]
) -> tuple[list[Test], str]:
    by_name = {line.key: line for line in lines}
    panels = claim.variants or [variant.label for variant in figure.variants]
    unit = " epochs" if claim.measure == "speed" else ""
    tests = []
    for panel, test in itertools.product(panels, claim.comparisons):
        pair = by_name[panel, test.first], by_name[panel, test.second]
        place = f"{panel}: " if len(figure.variants) > 1 else ""
        words = (f"{place}{test.first} ", f"{unit}, {test.second} ", unit)
        permitted, _ = allowed(test.relation, test.factor)
        compared = _compared(claim.measure, epoch, pair)
        tests.append(Test(pair, compared, words, permitted, searched=True))
    rules = dict.fromkeys(
        f"{test.first} {test.relation} {test.second}: the ratio is "
        f"{allowed(test.relation, test.factor)[1]}"
        for test in claim.comparisons
    )
    compared = {
        "speed": "on each seed, epochs until the cost is for the first time that of the slower "
        "one's best epoch",
        "early": f"on each seed, the {figure.cost} of epoch {epoch}",
        "end": f"on each seed, the {figure.cost} of epoch {epoch}, the last",
    }[claim.measure]
    return tests, f"Compared: {compared}; the second's divided by the first's. {'; '.join(rules)}."


def _compared(measure: str, epoch: int, pair: Sequence[Line]) -> list[np.ndarray]:
    costs = [curves(line.judged) for line in pair]
    if measure != "speed":
        return [of_line[:, epoch] for of_line in costs]
    # The cost is the seed's own, so that no seed changes what another one says.
    goals = [max(least) for least in zip(*(of_line.min(axis=1) for of_line in costs))]
    return [np.array(list(map(steps_to, of_line, goals))) for of_line in costs]


def _log_ratios(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns log(second / first); NaN for infinite over infinite or 0 over 0: any ratio."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(second) - np.log(first)


# --- bias correction -----------------------------------------------------------------------------


def _pairs(lines: Sequence[Line]) -> Pairs:
    """Pairs the lines with and without bias correction, by beta1 and beta2."""
    found: Pairs = {}
    for line in lines:
        settings = line.contender.settings
        betas = (settings["beta1"], settings["beta2"])
        found.setdefault(betas, {})[bool(settings["bias_correction"])] = line
    return dict(sorted(found.items()))


def _unstable(epoch: int, pairs: Pairs) -> tuple[list[Test], str]:
    """Counts, for each seed, the step sizes whose cost is no lower than before training."""

    def broken(line: Line) -> np.ndarray:
        costs = np.stack([curves(outcomes) for outcomes in line.trials.values()])
        return (~(costs[..., epoch] < costs[..., 0])).sum(axis=0)

    tests = []
    for beta1 in dict.fromkeys(beta1 for beta1, _ in pairs):
        beta2s = [beta2 for other, beta2 in pairs if other == beta1]
        least, largest = min(beta2s), max(beta2s)
        uncorrected = pairs[beta1, largest][False]
        for other, place in (
            (pairs[beta1, largest][True], f"with it at beta2 {largest:g}"),
            (pairs[beta1, least][False], f"without it at beta2 {least:g}"),
        ):
            words = (
                f"beta1 {beta1:g}, unstable step sizes: ",
                f" without correction at beta2 {largest:g}, ",
                f" {place}: difference",
            )
            both = (uncorrected, other)
            compared = [broken(line) for line in both]
            tests.append(Test(both, compared, words, Bounds(0, math.inf), counts=True))
    rule = (
        f"A step size is unstable where the cost of epoch {epoch} is not below that before "
        "training. Without correction at the largest beta2 more of them are unstable than with "
        "it there, and more than without it at the smallest beta2, at every beta1. The median "
        "difference over the seeds is judged, by signs."
    )
    return tests, rule


def _not_worse(claim: BiasCorrection, epoch: int, pairs: Pairs) -> tuple[list[Test], str]:
    """Compares costs with and without correction, at the best step size of each or at every one."""
    anywhere = claim.test == "not worse anywhere"
    permitted, above = allowed("not behind", claim.factor)
    tests = []
    for (beta1, beta2), both in pairs.items():
        pair = both[True], both[False]
        by_rate = [
            {rate: curves(outcomes)[:, epoch] for rate, outcomes in line.trials.items()}
            for line in pair
        ]
        compared = {"": [np.min(list(costs.values()), axis=0) for costs in by_rate]}
        if anywhere:
            compared = {
                f", step size {rate:g}": [costs[rate] for costs in by_rate] for rate in by_rate[0]
            }
        for place, costs in compared.items():
            words = (f"beta1 {beta1:g}, beta2 {beta2:g}{place}: with ", ", without ", "")
            tests.append(Test(pair, costs, words, permitted))
    where = "beta1, beta2 and step size" if anywhere else "beta1 and beta2"
    rule = (
        f"At every {where}: on each seed, the cost of epoch {epoch} without correction divided by "
        f"that with it{'' if anywhere else ', each at its best step size'}: the ratio is {above}."
    )
    return tests, rule


def _interval(centre: float, measured: Bounds, counts: bool) -> str:
    def number(value: float) -> str:
        if math.isnan(value):
            return "unknown"
        if not counts:
            value = math.exp(value) if value < 700 else math.inf
        return "∞" if value == math.inf else f"{value:.4g}".replace("-inf", "-∞")

    return f"{number(centre)} ({number(measured.low)} to {number(measured.high)})"


def _band(values: Sequence[float]) -> str:
    least, largest = _number(min(values)), _number(max(values))
    return least if least == largest else f"{least} to {largest}"


def _number(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:.4g}"
