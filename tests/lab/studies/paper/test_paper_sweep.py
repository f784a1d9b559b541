"""The grid search, on made-up outcomes."""

import numpy as np
import pytest
from lab.studies.paper.paper_figures import contender, figure, ordering, outcome, scales

from ms_adam.lab.studies.paper.config import scale_of
from ms_adam.lab.studies.paper.sweep import Spec, best_rate, beyond_edge, steps_to, sweep


def pretend(spec):
    """Best at 0.1 on any seed."""
    return outcome(9, 9, 9, 1 + abs(np.log10(spec.learning_rate / 0.1)) + 0.01 * spec.seed)


@pytest.mark.parametrize(
    "design, tuning, wanted",
    [
        ("tuned", [0], [("trial", 0)] * 2 + [("judged", seed) for seed in (1, 2, 3)]),
        ("grid", [], [("grid", seed) for seed in (1, 2, 3)] * 2),
    ],
)
def test_every_optimizer_gets_the_same_trials_and_no_judged_seed_chooses(design, tuning, wanted):
    small = figure(design=design, tuning_seeds=tuning)
    asked = []

    def get(spec):
        asked.append(spec)
        return pretend(spec)

    lines = sweep(small, scale_of(small, "quick"), get)
    assert asked == [run.spec for line in lines for run in line.runs]
    for line in lines:
        assert [(run.purpose, run.spec.seed) for run in line.runs] == wanted
        assert list(line.trials) == [0.1, 1.0]  # two in the middle of three
        assert line.best == 0.1
        assert line.at_edge  # 0.1 is the least of the trials


def test_a_rate_that_diverges_is_never_the_best():
    assert best_rate({0.1: [outcome(1, np.inf)], 0.2: [outcome(1, 7)]}) == 0.2
    assert best_rate({0.2: [outcome(1, 7)], 0.1: [outcome(1, 7)]}) == 0.1
    assert best_rate({0.1: [outcome(1, np.inf)], 0.2: [outcome(1, np.inf)]}) == 0.1


@pytest.mark.parametrize(
    "costs, target, wanted",
    [
        ([8, 4, 2], 4, 1),
        ([8, 4, 2], 8, 0),
        ([8, 4, 1], 2, 1.5),
        ([8, 4, 2], 1, np.inf),
        ([8, 4, 6, 2], 4, 1),
        ([np.inf, 4, 2], 4, 1),
        ([2, 0], 1, 0.5),
        ([8, np.inf], 4, np.inf),
    ],
)
def test_steps_to_a_target(costs, target, wanted):
    assert steps_to(np.array(costs, dtype=float), target) == pytest.approx(wanted)


def test_the_hash_covers_everything_that_decides_the_outcome_and_nothing_else():
    small = figure()
    scale = scale_of(small, "quick")
    spec = Spec(small.variants[0], small.optimizers[0], 0.1, 1)
    l2 = figure(variants=[{"label": "L2", "l2": 0.1}]).variants[0]
    beta1 = figure(optimizers=[contender("Adam", beta1=0.8), contender("AdaGrad")]).optimizers[0]

    def digest(of=small, at=scale, run=spec, **changed):
        return run.digest(of, at, {"examples": "a", "held_out": 0, "code": "b", **changed})

    claim = ordering("ahead of")
    claim["comparisons"][0]["first"] = "AdaGrad"
    renamed = [contender("Adam", "another label"), contender("AdaGrad")]
    for changes in (
        {"title": "Another"},
        {"seeds": [1, 2, 3, 4]},
        {"optimizers": renamed, "claims": [claim]},
    ):
        assert digest(figure(**changes)) == digest()
    different = [
        digest(figure(batch_size=10)),
        digest(figure(decay="none")),
        digest(figure(network={"kind": "perceptron", "hidden": [2]})),
        digest(at=scale.model_copy(update={"epochs": 4})),
        digest(at=scale.model_copy(update={"width": 0.5})),
        digest(run=spec._replace(learning_rate=0.2)),
        digest(run=spec._replace(seed=2)),
        digest(run=spec._replace(contender=small.optimizers[1])),
        digest(run=spec._replace(variant=l2)),
        digest(run=spec._replace(contender=beta1)),
        digest(examples="x"),
        digest(held_out=1),
        digest(code="x"),
    ]
    assert len({digest(), *different}) == 1 + len(different)


@pytest.mark.parametrize("best, wanted", [(0.1, []), (0.01, [0.001, 0.0001]), (1.0, [10.0, 100.0])])
def test_rates_beyond_an_edge_are_tried_once(best, wanted):
    trials = {rate: [outcome(9, abs(np.log10(rate / best)))] for rate in (0.01, 0.1, 1.0)}
    assert beyond_edge(trials, 2) == pytest.approx(wanted)
    assert beyond_edge({0.1: [outcome(9, 1)]}, 2) == []
    assert beyond_edge(dict.fromkeys(trials, [outcome(9, np.inf)]), 2) == []


def test_the_best_rate_may_be_one_beyond_the_edge():
    small = figure(scales=scales(trials=3, beyond_edge=2))
    (adam, _) = sweep(
        small,
        scale_of(small, "quick"),
        lambda spec: outcome(9, abs(np.log10(spec.learning_rate / 10))),
    )
    assert list(adam.trials) == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert (adam.best, adam.at_edge) == (10.0, False)
    assert [run.spec.learning_rate for run in adam.runs][-3:] == [10.0] * 3
