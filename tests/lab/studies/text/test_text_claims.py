"""Each claim about text can be held, can fail, and is not measured without its runs."""

import numpy as np
import pytest
from lab.studies.text.small_text import row

from ms_adam.lab.claims import HELD, NOT_HELD, NOT_MEASURED, judge
from ms_adam.lab.problems.text import Bags, TextSplit
from ms_adam.lab.sides import Result
from ms_adam.lab.studies.text.claims import CLAIMS, time_ratio
from ms_adam.lab.studies.text.study import compare_bits, compare_first_step, telling_words

NAN = float("nan")
BITS, EXACT_BITS, FOLLOWS, TRAINS, ACCURACY, _, QUICK, _, DEFAULT_TARGET = CLAIMS


def verdict(claim, runs=(), bits=(), duplicates=()):
    config = {"compare": {"least_accuracy": 0.7}}
    found = {"runs": runs, "bits": bits, "duplicates": duplicates}
    return judge([claim], {"config": config, "commonest": 0.59, **found})[0]


def result(side, seed, **arrays):
    arrays = {"final": np.zeros(3), "digest": np.array([1, 2, 3]), **arrays}
    return Result(side, "graph", seed, {"side": side}, arrays)


def bits(*rows):
    pair = {"a": "lazy", "b": "lazy_pynative", "seed": 0}
    return [{**pair, "epochs": 3, "part": None, "distance": 0.0, **changes} for changes in rows]


@pytest.mark.parametrize(
    "rows, status",
    [
        (bits({}, {"seed": 1}), HELD),
        (bits({}, {"part": 2, "distance": 1e-9}), NOT_HELD),
        (bits({"distance": 1e-9}), NOT_HELD),  # though the digests are equal
        (bits({"distance": NAN}), NOT_HELD),
        ([], NOT_MEASURED),
    ],
)
def test_same_bits(rows, status):
    assert verdict(BITS, bits=rows).status == status
    assert verdict(EXACT_BITS, bits=rows).status == NOT_MEASURED  # these rows are of lazy sides


def test_bits_are_compared_with_the_first_side_seed_by_seed():
    results = [
        result("lazy", 0),
        result("lazy_pynative", 0),
        result("exact", 0),
        result("lazy", 1),
        result("lazy_pynative", 1, digest=np.array([1, 9, 9]), final=np.array([0, 0, -0.5])),
    ]
    same, parted = compare_bits(results, "lazy", "lazy_pynative")
    assert (same["seed"], same["part"], same["distance"]) == (0, None, 0.0)
    assert (parted["seed"], parted["part"], parted["distance"]) == (1, 2, 0.5)
    assert compare_bits(results, "exact", "exact_rows") == []


@pytest.mark.parametrize(
    "distances, status",
    [
        ([1e-6, 9e-6], HELD),
        ([1e-6, 1.1e-5], NOT_HELD),
        ([NAN, 1e-6], NOT_HELD),
        ([1e-6, NAN], NOT_HELD),
        ([], NOT_MEASURED),
    ],
)
def test_follows_nn(distances, status):
    runs = [row("lazy"), *(row("lazy_epsilon_hat", follower=value) for value in distances)]
    assert verdict(FOLLOWS, runs).status == status


def test_only_our_sides_must_train():
    runs = [row("lazy"), row("exact", test_accuracy=0.69), row("nn_lazy", test_accuracy=0.1)]
    found = verdict(TRAINS, runs)
    assert found.status == NOT_HELD and "69.0%" in found.measured and "59.0%" in found.why
    assert verdict(TRAINS, runs[:1]).status == HELD
    assert verdict(TRAINS, runs[2:]).status == NOT_MEASURED


@pytest.mark.parametrize("exact, status", [(0.755, HELD), (0.765, NOT_HELD), (None, NOT_MEASURED)])
def test_accuracies_of_two_sides_are_compared(exact, status):
    runs = [row("lazy", seed, test_accuracy=0.75 + 0.01 * seed) for seed in (0, 1)]
    if exact is not None:
        runs += [row("exact", seed, test_accuracy=exact + 0.01 * seed) for seed in (0, 1)]
    assert verdict(ACCURACY, runs).status == status


def test_times_are_compared_turn_by_turn():
    # The second half of the machine's time was slow for everybody.
    runs = [row("lazy", step_ms=[1.0, 9.0, 9.0]), row("nn_lazy", step_ms=[2.0, 18.0, 12.0])]
    assert time_ratio(runs, "lazy", "nn_lazy") == 0.5
    assert verdict(QUICK, runs).status == HELD
    runs[1]["step_ms"] = [0.9, 8.0, 12.0]
    assert verdict(QUICK, runs).status == NOT_HELD
    assert verdict(QUICK, runs[:1]).status == NOT_MEASURED
    assert time_ratio([*runs, row("exact", step_ms=None)], "lazy", "exact") is None


def moved(once, often):
    named = np.array([50, 1, 1, 3, 2, 0])  # the padding, two words once, two often, one never
    return {"named_first": named, "moved_first": np.array([0, *once, *often, 0.0])}


@pytest.mark.parametrize(
    "other, unlike, status",
    [
        (moved([0.1, 0.1], [0.3, 0.2]), (0, 2), HELD),
        (moved([0.1, 0.1], [0.1, 0.1]), (0, 0), NOT_HELD),  # it is right everywhere
        (moved([0.1, 0.2], [0.3, 0.2]), (1, 2), NOT_HELD),  # the repetition is not the cause
        (moved([NAN, 0.1], [0.3, 0.2]), (1, 2), NOT_HELD),
        (moved([0.1, 0.1 * (1 + 1e-7)], [0.3, 0.2]), (0, 2), HELD),  # a rounding
    ],
)
def test_default_target(other, unlike, status):
    right = result("nn_lazy", 0, **moved([0.1, 0.1], [0.1, 0.1]))
    both = [right, result("nn_lazy_default", 0, **other)]
    (found,) = compare_first_step(both, "nn_lazy", "nn_lazy_default")
    assert (found["once"], found["often"]) == (2, 2)
    assert (found["once_unlike"], found["often_unlike"]) == unlike
    assert verdict(DEFAULT_TARGET, duplicates=[found]).status == status
    alone = compare_first_step(both[:1], "nn_lazy", "nn_lazy_default")
    assert verdict(DEFAULT_TARGET, duplicates=alone).status == NOT_MEASURED


def test_telling_words_are_those_that_move_the_logits_most():
    words = np.array([[1, 2, 3]] * 20 + [[4, 0, 0]], np.int32)  # the fourth is too rare to be told
    split = TextSplit(Bags(words, np.zeros(21, np.int32)), None, ("dull", "a", "fine", "rare"))
    table = np.array([[9, 9], [1, 0], [0.5, 0.5], [0, 1], [0, 5]])
    weight, bias = np.array([[1, 0], [0, 1]]), np.zeros(2)  # of rotten and fresh
    final = np.concatenate([part.ravel() for part in (table, weight, bias)])
    told = telling_words(split, result("lazy", 0, final=final), 2)
    assert told == {"rotten": ["dull", "a", "fine"], "fresh": ["fine", "a", "dull"]}
