"""Shares of a batch, and tensors in which ranks differ."""

import numpy as np
import pytest

from ms_adam.lab.errors import UserError
from ms_adam.lab.studies.compare.parallel import farthest, share_of


def test_shares_of_a_batch_are_its_examples_in_order():
    batch = ((np.arange(12).reshape(6, 2), np.arange(6)), (np.arange(6) + 10,))
    shares = [share_of(batch, rank, 3) for rank in range(3)]
    for place in ((0, 0), (0, 1), (1, 0)):
        joined = np.concatenate([share[place[0]][place[1]] for share in shares])
        np.testing.assert_array_equal(joined, batch[place[0]][place[1]])
    assert share_of(batch, 0, 1) is batch


@pytest.mark.parametrize("shapes", [[(5, 2), (5,)], [(6, 2), ()], [(6, 2), (4,)], [(6,), (1, 6)]])
def test_a_batch_that_cannot_be_divided_is_refused(shapes):
    batch = ((np.zeros(shapes[0]),), (np.zeros(shapes[1]),))
    with pytest.raises(UserError) as caught:
        share_of(batch, 0, 2)
    message = f"of shapes {shapes[0]}, {shapes[1]} cannot be divided among 2 ranks: the first axis"
    assert message in str(caught.value)


class Gathering:
    """Ranks with these arrays; this one is rank 0."""

    def __init__(self, *arrays):
        self.arrays = arrays

    def gather(self, row):
        rows = [np.concatenate([a.ravel() for a in one]).astype(row.dtype) for one in self.arrays]
        np.testing.assert_array_equal(rows[0], row)
        return np.stack(rows)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_farthest_rank_is_found_for_each_array(dtype):
    lost = [np.inf, np.nan]  # the same on all ranks
    one = [np.array(values, dtype) for values in ([[1, 2]], [2, *lost], [], 4)]
    other = [np.array(values, dtype) for values in ([[1, 2.5]], [3, *lost], [], 4)]
    third = [np.array(values, dtype) for values in ([[1, 1.25]], [2, *lost], [], np.nan)]
    arrays, ranks = farthest(Gathering(one, other, third), one)
    assert ranks == [2, 1, 0, 2]
    for found, wanted in zip(arrays, [third[0], other[1], one[2], third[3]]):
        np.testing.assert_array_equal(found, wanted)
        assert found.shape == wanted.shape
    assert farthest(Gathering(one, one), one)[1] == [0] * 4
