"""Each claim can be held, not held, and not measured, and says so."""

import pytest

from ms_adam.lab.claims import HELD, NOT_HELD, NOT_MEASURED, judge
from ms_adam.lab.studies.images.claims import CLAIMS, MINDSPORES, OURS

NAN = float("nan")


def run(optimizer=OURS, seed=0, one=1e-6, hat=1e-2, bound=1e-4, accuracy=0.9):
    return {
        "optimizer": optimizer,
        "label": f"{optimizer}, graph",
        "seed": seed,
        "error_algorithm1": one,
        "error_epsilon_hat": hat,
        "rounding_bound": bound,
        "test_accuracy": accuracy,
    }


def mode(gradients=None, parameters=None, optimizer=OURS, seed=0):
    return {
        "optimizer": optimizer,
        "seed": seed,
        "steps": 100,
        "gradients_part": gradients,
        "parameters_part": parameters,
    }


FORMULA, HAT, BITS, _, TRAIN, ACCURACY = CLAIMS


def verdict(claim, runs=(), modes=(), least_accuracy=0.88):
    config = {"compare": {"least_accuracy": least_accuracy}}
    return judge([claim], {"config": config, "runs": runs, "modes": modes})[0]


@pytest.mark.parametrize(
    "claim, runs, status",
    [
        (FORMULA, [run(), run(seed=1)], HELD),
        (FORMULA, [run(), run(seed=1, one=2e-4)], NOT_HELD),  # one bad seed is enough
        (FORMULA, [run(one=1e-2, hat=1e-6)], NOT_HELD),  # the other formula
        (FORMULA, [run(one=NAN)], NOT_HELD),
        (FORMULA, [run(), run(one=NAN), run()], NOT_HELD),
        (FORMULA, [run(bound=NAN)], NOT_HELD),
        (FORMULA, [run(hat=5e-5)], NOT_MEASURED),  # both formulas fit: nothing is told
        (FORMULA, [run(MINDSPORES)], NOT_MEASURED),
        (FORMULA, [], NOT_MEASURED),
        (HAT, [run(MINDSPORES, one=1e-2, hat=1e-6)], HELD),
        (HAT, [run(MINDSPORES, one=1e-6, hat=1e-2)], NOT_HELD),  # it was repaired
        (HAT, [run(MINDSPORES, one=5e-5, hat=1e-6)], NOT_MEASURED),
        (HAT, [run()], NOT_MEASURED),
    ],
)
def test_a_formula_explains_the_runs(claim, runs, status):
    assert verdict(claim, runs).status == status


def test_numbers_of_the_worst_run_are_told():
    found = verdict(FORMULA, [run(), run(one=3.2e-6)])
    assert "3.2e-6 from Algorithm 1" in found.measured
    assert "at most 1.0e-4" in found.limit


@pytest.mark.parametrize(
    "modes, status, words",
    [
        ([mode()], HELD, "100 of 100 steps equal"),
        ([mode(parameters=7)], NOT_HELD, "parameters part at step 7"),
        # Step 7 parts the parameters, so step 8 gets other gradients: the optimizer was first.
        ([mode(gradients=8, parameters=7)], NOT_HELD, "parameters part at step 7"),
        # Other gradients at step 8 are MindSpore's doing; seven steps were compared.
        ([mode(gradients=8, parameters=8)], HELD, "7 of 100 steps equal; then the gradients part"),
        ([mode(gradients=1, parameters=1)], NOT_MEASURED, "the gradients part at step 1"),
        ([mode(), mode(parameters=1, seed=1)], NOT_HELD, "seed 1: parameters part at step 1"),
        ([mode(optimizer=MINDSPORES)], NOT_MEASURED, "no pair of runs"),
    ],
)
def test_same_bits(modes, status, words):
    found = verdict(BITS, modes=modes)
    assert found.status == status
    assert words in found.measured


def test_accuracies_are_those_of_all_runs_and_of_both_optimizers():
    runs = [run(OURS, seed, accuracy=0.9 + 0.01 * seed) for seed in (0, 1)]
    assert verdict(TRAIN, runs).status == HELD
    assert verdict(ACCURACY, runs).status == NOT_MEASURED
    runs += [run(MINDSPORES, seed, accuracy=0.8 + 0.01 * seed) for seed in (0, 1)]
    assert verdict(TRAIN, runs).status == verdict(ACCURACY, runs).status == NOT_HELD
    assert verdict(ACCURACY, runs).limit == "at most 1.00 points apart, the spread over 2 seeds"


def test_every_claim_is_another_one():
    assert len({claim.claim for claim in CLAIMS}) == len(CLAIMS) == 6
