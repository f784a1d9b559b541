"""The claims that every study with sides makes."""

import pytest

from ms_adam.lab.sides import same_accuracy, trains


def rows(accuracies):
    return [
        {"label": "a side", "seed": seed, "test_accuracy": accuracy}
        for seed, accuracy in enumerate(accuracies)
    ]


@pytest.mark.parametrize(
    "accuracies, held", [((0.9, 0.89), True), ((0.9, 0.87), False), ((0.9, float("nan")), False)]
)
def test_one_run_that_does_not_train_is_enough(accuracies, held):
    found = trains(rows(accuracies), 0.88, "on test images")
    assert found.held == held and found.limit == "at least 88.0%"
    if accuracies[1] == 0.87:
        assert found.measured == "87.0% on test images at worst (a side, seed 1)"
    assert trains([], 0.88, "on test images") is None


@pytest.mark.parametrize(
    "own, other, held",
    [
        ((0.90, 0.92), (0.91, 0.92), True),
        ((0.75, 0.76), (0.755, 0.765), True),  # half a point apart, a point of spread
        ((0.90, 0.92), (0.95, 0.96), False),
        ((0.95, 0.96), (0.90, 0.92), False),  # better is not the same either
        ((0.90, 0.92), (), None),
        ((0.90,), (0.90,), None),  # one seed has no spread
    ],
)
def test_accuracies_differ_by_more_than_their_spread(own, other, held):
    found = same_accuracy(rows(own), rows(other), "test accuracy")
    assert (found.held if found else None) == held


def test_runs_of_one_seed_in_two_modes_have_no_spread():
    assert same_accuracy(2 * rows([0.9]), 2 * rows([0.9]), "test accuracy") is None
