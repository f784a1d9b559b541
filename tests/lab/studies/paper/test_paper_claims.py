"""Verdicts on outcomes whose verdict is known."""

import numpy as np
import pytest
from lab.studies.paper.paper_figures import contender, figure, line, ordering, outcome, scales

from ms_adam.lab.studies.paper.claims import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED, judge
from ms_adam.lab.studies.paper.config import scale_of
from ms_adam.lab.studies.paper.sweep import Line

LOW, HIGH = [1.0, 1.1, 1.2], [2.0, 2.1, 2.4]  # log-ratios of 0.69, 0.65, 0.69


def judged(claim, first, second, of_first=None, of_second=None, **scale):
    seeds = list(range(1, len(first) + 1))
    scale = scales(**{"looks": [len(first)], **scale})
    small = figure(claims=[claim], seeds=seeds, scales=scale)
    lines = [line(small, 0, first, **(of_first or {})), line(small, 1, second, **(of_second or {}))]
    (found,) = judge(small, scale_of(small, "quick"), lines)
    return found


def verdict(*of, **more):
    return judged(*of, **more).verdict.status


# Of three seeds a bound is 4.3 standard deviations from the mean at an error of 0.05, and 7.9 at
# half of it. Signs need six seeds: 1.8^6 = 34 > 1 / 0.05.
@pytest.mark.parametrize(
    "relation, factor, first, second, wanted",
    [
        ("ahead of", 1.0, LOW, HIGH, REPRODUCED),
        ("ahead of", 1.0, HIGH, LOW, NOT_REPRODUCED),
        ("ahead of", 1.0, LOW, [1.15, 3.0, 3.0], INCONCLUSIVE),
        ("ahead of", 1.0, [1.0, 5.0, 25.0], [1.1, 5.4, 28.0], REPRODUCED),  # paired
        ("ahead of", 1.0, [1.0] * 6, [1.0] * 6, NOT_REPRODUCED),  # level is not ahead
        ("far ahead of", 1.5, LOW, HIGH, REPRODUCED),
        ("far ahead of", 3.0, LOW, HIGH, NOT_REPRODUCED),  # ahead, but not far
        ("far ahead of", 2.0, LOW, HIGH, INCONCLUSIVE),
        ("about as", 1.5, LOW, [1.1, 1.2, 1.3], REPRODUCED),
        ("about as", 1.5, LOW, HIGH, NOT_REPRODUCED),
        ("about as", 1.5, HIGH, LOW, NOT_REPRODUCED),
        ("about as", 1.1, LOW, [1.1, 1.2, 1.3], INCONCLUSIVE),
        ("about as", 1.1, LOW, [1.1, 1.1, 1.1], INCONCLUSIVE),  # no difference found is no proof
        ("not behind", 1.1, LOW, [1.1, 1.2, 1.3], REPRODUCED),
        ("not behind", 1.1, HIGH, LOW, NOT_REPRODUCED),
        ("ahead of", 1.0, LOW * 2, [np.inf] * 6, REPRODUCED),
        ("ahead of", 1.0, [np.inf] * 6, LOW * 2, NOT_REPRODUCED),
        ("ahead of", 1.0, LOW, [np.inf] * 3, INCONCLUSIVE),
        ("ahead of", 1.0, [np.inf, *LOW, *LOW[1:]], HIGH * 2, INCONCLUSIVE),
        ("ahead of", 1.0, [np.inf] * 6, [np.inf] * 6, INCONCLUSIVE),
    ],
)
def test_orderings(relation, factor, first, second, wanted):
    assert verdict(ordering(relation, factor), first, second) == wanted


def test_the_first_look_that_decides_is_the_verdict():
    # Two seeds never decide, three do; the others, which speak against it, come too late.
    late = judged(ordering("ahead of"), LOW + HIGH, HIGH + LOW, looks=[2, 3, 6])
    assert (late.verdict.status, late.verdict.seeds, late.wanted) == (REPRODUCED, 3, set())
    assert late.verdict.needed is None


def test_an_open_claim_says_what_it_would_take():
    first, second = [1.0, 1.0, 1.0, 1.0], [1.1, 1.3, 1.2, 0.95]
    found = judged(ordering("ahead of"), first, second, looks=[2, 4])
    assert found.verdict.status == INCONCLUSIVE
    assert found.verdict.seeds == 4 < found.verdict.needed
    # log-ratios of mean 0.124 and standard deviation 0.134
    assert found.verdict.interval.startswith("1.13 (0.7")
    assert found.wanted == {("L2", "Adam"), ("L2", "AdaGrad")}
    # No difference: it would take hundreds of seeds, so no more are spent on it.
    found = judged(ordering("ahead of"), first, [1.1, 0.9, 1.1, 0.91], looks=[2, 4])
    assert (found.verdict.status, found.wanted) == (INCONCLUSIVE, set())


def test_each_of_several_ways_to_fail_has_a_share_of_the_error():
    # Behind by 6 standard deviations: more than 4.3, less than 7.9.
    ratios = np.exp([-0.5, -0.6, -0.7])
    once = verdict(ordering("ahead of"), [1.0] * 3, ratios)
    claim = ordering("ahead of")
    claim["comparisons"] *= 2
    assert (once, verdict(claim, [1.0] * 3, ratios)) == (NOT_REPRODUCED, INCONCLUSIVE)
    # To hold, all tests must, so each may use the whole error.
    assert verdict(claim, ratios, [1.0] * 3) == REPRODUCED


def test_speed_is_the_way_to_a_common_cost():
    # Of the same end, the one that falls first is faster.
    many = {"seeds": list(range(1, 7)), "scales": scales(looks=[6])}
    small = figure(claims=[ordering("ahead of", measure="speed")], **many)
    fast = [outcome(10, 2, 1, 1), outcome(10, 2.2, 1, 1), outcome(10, 2.1, 1, 1)]
    slow = [outcome(10, 8, 4, 1), outcome(10, 8, 4.4, 1), outcome(10, 8, 4.2, 1)]

    def of(*outcomes):
        lines = [
            line(small, i, LOW)._replace(judged=of_line * 2) for i, of_line in enumerate(outcomes)
        ]
        return judge(small, scale_of(small, "quick"), lines)[0].verdict.status

    assert of(fast, slow) == REPRODUCED
    assert of(slow, fast) == NOT_REPRODUCED


def test_early_is_judged_at_the_early_epoch():
    claim = ordering("ahead of", measure="early")
    assert verdict(claim, LOW * 2, HIGH * 2, of_second={"start": 20.0}) == REPRODUCED
    assert verdict(claim, LOW * 2, HIGH * 2, of_first={"start": 20.0}) == NOT_REPRODUCED


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
    assert found.verdict.status == NOT_REPRODUCED
    assert len(found.verdict.measured) == 2


SEEDS = 12  # 1.8^12 > 12 / 0.05: signs decide even if they may fail in 12 ways


def bias_verdict(test, costs, factor=1.1):
    """`costs`: of (beta2, correction) the cost at the end by step size; 10 before training."""
    claim = {"form": "bias correction", "words": "A claim.", "test": test, "measure": "end"}
    optimizers = [
        contender("Adam", f"{on} {beta2}", beta2=beta2, bias_correction=on) for beta2, on in costs
    ]
    changes = {"seeds": list(range(SEEDS)), "scales": scales(looks=[SEEDS])}
    changes["claims"] = [{**claim, "factor": factor}]
    small = figure(design="grid", tuning_seeds=[], optimizers=optimizers, **changes)
    lines = []
    for number, (of_line, finals) in enumerate(zip(small.optimizers, costs.values())):
        trials = {
            rate: [
                outcome(10, 9, 9, final * (1 + 0.001 * np.cos(seed * (1 + number))))
                for seed in range(SEEDS)
            ]
            for rate, final in zip(of_line.learning_rates, finals)
        }
        lines.append(Line(small.variants[0], of_line, trials, 0.1, trials[0.1]))
    return judge(small, scale_of(small, "quick"), lines)[0].verdict.status


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
