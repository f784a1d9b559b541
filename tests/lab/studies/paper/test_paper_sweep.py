"""The grid search, on outcomes that are made up."""

import numpy as np
import pytest
from lab.studies.paper.paper_figures import contender, figure, outcome

from ms_adam.lab.studies.paper.config import scale_of
from ms_adam.lab.studies.paper.sweep import Spec, best_rate, count, runs, steps_to, sweep


def pretend(spec):
    """Best at 0.1, whatever the seed."""
    return outcome(9, 9, 9, 1 + abs(np.log10(spec.learning_rate / 0.1)) + 0.01 * spec.seed)


@pytest.mark.parametrize("design, tuning, wanted", [("tuned", [0], 2 * (2 + 3)), ("grid", [], 12)])
def test_every_optimizer_gets_the_same_number_of_trials(design, tuning, wanted):
    small = figure(design=design, tuning_seeds=tuning)
    asked = []

    def get(spec):
        asked.append(spec)
        return pretend(spec)

    lines = sweep(small, scale_of(small, "quick"), get)
    assert len(asked) == count(small, scale_of(small, "quick")) == wanted
    assert len(list(runs(lines, small))) == wanted
    for line in lines:
        assert list(line.trials) == [0.1, 1.0]  # two in the middle of three
        assert line.best == 0.1
        assert line.at_edge  # 0.1 is the least that was tried


def test_the_judged_seeds_have_no_part_in_choosing():
    small = figure()
    lines = sweep(small, scale_of(small, "quick"), pretend)
    trial, judged = (
        [spec.seed for spec, purpose, _ in runs(lines, small) if purpose == wanted]
        for wanted in ("trial", "judged")
    )
    assert set(trial) == {0}
    assert set(judged) == {1, 2, 3}


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


def test_the_hash_is_that_of_what_decides_the_outcome():
    small = figure()
    scale = scale_of(small, "quick")
    spec = Spec(small.variants[0], small.optimizers[0], 0.1, 1)
    around = {"examples": "a", "code": "b", "mindspore": "c"}

    def digest(of=small, at=scale, run=spec, **changed):
        return run.digest(of, at, {**around, **changed})

    same = [
        figure(title="Another"),
        figure(seeds=[1, 2, 3, 4]),
        figure(
            optimizers=[contender("Adam", "called so"), contender("AdaGrad")],
            claims=[
                {
                    "form": "ordering",
                    "words": "w",
                    "measure": "end",
                    "comparisons": [
                        {"first": "AdaGrad", "relation": "ahead of", "second": "AdaGrad"}
                    ],
                }
            ],
        ),
    ]
    for other in same:
        assert digest(other) == digest()
    different = [
        digest(figure(batch_size=10)),
        digest(figure(decay="none")),
        digest(figure(network={"kind": "perceptron", "hidden": [2]})),
        digest(at=scale.model_copy(update={"epochs": 4})),
        digest(at=scale.model_copy(update={"width": 0.5})),
        digest(run=Spec(spec.variant, spec.contender, 0.2, 1)),
        digest(run=Spec(spec.variant, spec.contender, 0.1, 2)),
        digest(run=Spec(spec.variant, small.optimizers[1], 0.1, 1)),
        digest(
            run=Spec(
                figure(variants=[{"label": "L2", "l2": 0.1}]).variants[0], spec.contender, 0.1, 1
            )
        ),
        digest(
            run=Spec(
                spec.variant,
                figure(optimizers=[contender("Adam", beta1=0.8), contender("AdaGrad")]).optimizers[
                    0
                ],
                0.1,
                1,
            )
        ),
        digest(examples="x"),
        digest(code="x"),
        digest(mindspore="x"),
    ]
    assert len({digest(), *different}) == 1 + len(different)
