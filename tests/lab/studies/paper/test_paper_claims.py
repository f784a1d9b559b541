"""Verdicts on outcomes whose verdict is known."""

import numpy as np
import pytest
from lab.studies.paper.paper_figures import contender, figure, line, ordering, outcome

from ms_adam.lab.studies.paper.claims import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    allowed,
    decide,
    interval,
    judge,
)
from ms_adam.lab.studies.paper.config import scale_of
from ms_adam.lab.studies.paper.sweep import Line

LOW, HIGH = [1.0, 1.1, 1.2], [2.0, 2.1, 2.4]


def verdict(claim, first, second, of_first=None, of_second=None):
    small = figure(claims=[claim])
    lines = [line(small, 0, first, **(of_first or {})), line(small, 1, second, **(of_second or {}))]
    (found,) = judge(small, scale_of(small, "quick"), lines)
    return found.status


@pytest.mark.parametrize(
    "relation, factor, first, second, wanted",
    [
        ("ahead of", 1.0, LOW, HIGH, REPRODUCED),
        ("ahead of", 1.0, HIGH, LOW, NOT_REPRODUCED),
        ("ahead of", 1.0, LOW, [1.15, 3.0, 3.0], INCONCLUSIVE),  # bands touch
        ("ahead of", 1.0, [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], NOT_REPRODUCED),  # level is not ahead
        ("far ahead of", 1.5, LOW, HIGH, REPRODUCED),
        ("far ahead of", 3.0, LOW, HIGH, NOT_REPRODUCED),  # ahead, but not far
        ("far ahead of", 2.0, LOW, HIGH, INCONCLUSIVE),
        ("about as", 1.5, LOW, [1.1, 1.2, 1.3], REPRODUCED),
        ("about as", 1.5, LOW, HIGH, NOT_REPRODUCED),
        ("about as", 1.5, HIGH, LOW, NOT_REPRODUCED),
        ("about as", 1.2, LOW, [1.1, 1.2, 1.3], INCONCLUSIVE),
        ("not behind", 1.1, LOW, [1.1, 1.2, 1.3], REPRODUCED),
        ("not behind", 1.1, HIGH, LOW, NOT_REPRODUCED),
        ("ahead of", 1.0, LOW, [np.inf, np.inf, np.inf], REPRODUCED),
        ("ahead of", 1.0, [np.inf, 1.0, 1.0], HIGH, INCONCLUSIVE),
        ("ahead of", 1.0, [np.inf] * 3, [np.inf] * 3, INCONCLUSIVE),
    ],
)
def test_orderings(relation, factor, first, second, wanted):
    assert verdict(ordering(relation, factor), first, second) == wanted


def test_speed_is_the_way_to_a_common_cost():
    # Of the same end, the one that falls first is faster.
    small = figure(claims=[ordering("ahead of", measure="speed")])
    fast = [outcome(10, 2, 1, 1), outcome(10, 2.2, 1, 1), outcome(10, 2.1, 1, 1)]
    slow = [outcome(10, 8, 4, 1), outcome(10, 8, 4.4, 1), outcome(10, 8, 4.2, 1)]

    def judged(*outcomes):
        lines = [line(small, i, LOW)._replace(judged=of_line) for i, of_line in enumerate(outcomes)]
        return judge(small, scale_of(small, "quick"), lines)[0].status

    assert judged(fast, slow) == REPRODUCED
    assert judged(slow, fast) == NOT_REPRODUCED


def test_early_is_judged_at_the_early_epoch():
    claim = ordering("ahead of", measure="early")
    assert verdict(claim, LOW, HIGH, of_second={"start": 20.0}) == REPRODUCED
    assert verdict(claim, LOW, HIGH, of_first={"start": 20.0}) == NOT_REPRODUCED


def test_a_loser_at_the_edge_of_its_grid_decides_nothing():
    edge = {"best": 0.01}
    assert verdict(ordering("ahead of"), LOW, HIGH, of_second=edge) == INCONCLUSIVE
    assert verdict(ordering("ahead of"), LOW, HIGH, of_first=edge) == REPRODUCED
    assert verdict(ordering("ahead of"), HIGH, LOW, of_first=edge) == INCONCLUSIVE
    assert verdict(ordering("far ahead of", 3.0), LOW, HIGH, of_first=edge) == INCONCLUSIVE
    assert verdict(ordering("about as", 1.5), LOW, HIGH, of_second=edge) == INCONCLUSIVE
    assert verdict(ordering("about as", 1.5), LOW, HIGH, of_first=edge) == NOT_REPRODUCED


def test_one_comparison_that_fails_decides_a_claim():
    small = figure(claims=[ordering("ahead of")], variants=[{"label": "a"}, {"label": "b"}])
    lines = [
        line(small, which, finals)._replace(variant=variant)
        for variant, of_variant in zip(small.variants, ((LOW, HIGH), (HIGH, LOW)))
        for which, finals in enumerate(of_variant)
    ]
    (found,) = judge(small, scale_of(small, "quick"), lines)
    assert found.status == NOT_REPRODUCED
    assert len(found.measured) == 2


def test_the_interval_of_ratios():
    assert interval([1, 2], [4, 6]) == (2, 6)
    assert interval([1, np.inf], [2, 3]) == (0, 3)
    assert interval([1, 2], [np.inf, np.inf]) == (np.inf, np.inf)
    assert decide((0.0, np.inf), allowed("about as", 2)[:2]) == INCONCLUSIVE


def bias_verdict(test, costs, factor=1.1):
    """`costs`: of (beta2, correction) the cost at the end by step size; 10 before training."""
    claim = {"form": "bias correction", "words": "A claim.", "test": test, "measure": "end"}
    optimizers = [
        contender("Adam", f"{on} {beta2}", beta2=beta2, bias_correction=on) for beta2, on in costs
    ]
    claims = [{**claim, "factor": factor}]
    small = figure(design="grid", tuning_seeds=[], optimizers=optimizers, claims=claims)
    lines = []
    for of_line, finals in zip(small.optimizers, costs.values()):
        trials = {
            rate: [outcome(10, 9, 9, final * (1 + 0.001 * seed)) for seed in range(3)]
            for rate, final in zip(of_line.learning_rates, finals)
        }
        lines.append(Line(small.variants[0], of_line, trials, 0.1, trials[0.1]))
    return judge(small, scale_of(small, "quick"), lines)[0].status


GOOD = [5, 2, 3]


@pytest.mark.parametrize(
    "without, wanted",
    [
        ({0.99: GOOD, 0.9999: [5, 20, np.inf]}, REPRODUCED),
        ({0.99: GOOD, 0.9999: GOOD}, NOT_REPRODUCED),
        ({0.99: [5, 20, 20], 0.9999: [5, 20, 20]}, NOT_REPRODUCED),  # does not grow with beta2
        ({0.99: [5, 2, 20], 0.9999: [5, 20, 20]}, REPRODUCED),
    ],
)
def test_instability_without_correction(without, wanted):
    uncorrected = {(beta2, 0): found for beta2, found in without.items()}
    costs = {(0.99, 1): GOOD, (0.9999, 1): GOOD, **uncorrected}
    assert bias_verdict("unstable without", costs, None) == wanted


def test_not_worse_at_best_and_anywhere():
    corrected = {(0.99, 1): GOOD, (0.9999, 1): GOOD}
    better_somewhere = {**corrected, (0.99, 0): [3, 2, np.inf], (0.9999, 0): [5, 3, np.inf]}
    assert bias_verdict("not worse at best", better_somewhere) == REPRODUCED
    assert bias_verdict("not worse anywhere", better_somewhere) == NOT_REPRODUCED
    worse = {**better_somewhere, (0.9999, 0): [5, 1, 3]}
    assert bias_verdict("not worse at best", worse) == NOT_REPRODUCED
