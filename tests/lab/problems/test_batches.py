"""The batches of a seed are always the same, wherever a training begins."""

import itertools

import numpy as np
import pytest

from ms_adam.lab.problems.batches import Batches

EXAMPLES = np.arange(10)


def steps(first, last, **options):
    batches = Batches((EXAMPLES, 10 * EXAMPLES), 4, seed=3, **options)
    return [batch.tolist() for batch, _ in batches.steps(first, last)]


@pytest.mark.parametrize("options", [{}, {"independent": True}, {"keep_last": True}])
def test_a_training_can_begin_anywhere(options):
    whole = steps(0, 12, **options)
    for first in range(12):
        assert steps(first, 12, **options) == whole[first:]


@pytest.mark.parametrize("keep_last, sizes", [(False, [4, 4]), (True, [4, 4, 2])])
def test_each_epoch_has_every_example_at_most_once(keep_last, sizes):
    batches = Batches((EXAMPLES,), 4, seed=3, keep_last=keep_last)
    assert batches.per_epoch == len(sizes)
    for epoch in range(3):
        first = epoch * len(sizes)
        found = [batch for (batch,) in batches.steps(first, first + len(sizes))]
        assert [len(batch) for batch in found] == sizes
        assert len(set(np.concatenate(found))) == sum(sizes)


def test_orders_come_from_generators_of_their_own():
    """The seeds are part of every recorded result."""
    random = np.random.default_rng([3, 1])
    one = [random.permutation(10) for _ in range(2)]
    own = [np.random.default_rng([3, 1, epoch]).permutation(10) for epoch in range(2)]
    for independent, orders in ((False, one), (True, own)):
        wanted = [order[i : i + 4].tolist() for order in orders for i in (0, 4)]
        assert steps(0, 4, independent=independent) == wanted


def test_all_arrays_are_indexed_alike_and_there_is_no_end():
    batches = Batches((EXAMPLES, 10 * EXAMPLES), 4, seed=0)
    found = list(itertools.islice(batches.steps(), 7))
    assert len(found) == 7
    assert all(np.array_equal(10 * one, ten) for one, ten in found)
