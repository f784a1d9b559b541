"""Clipping by the global norm: by hand, as published, and by its properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ms_adam.reference import clip_by_global_norm


def test_as_mindspore_publishes_it():
    """The example on the page of ops.clip_by_global_norm, in float32; joint norm is sqrt(45)."""
    got = clip_by_global_norm([[[2.0, 3.0], [1.0, 2.0]], [[1.0, 4.0], [3.0, 1.0]]], 1.0)
    np.testing.assert_allclose(
        got,
        [
            [[2.98142403e-01, 4.47213590e-01], [1.49071202e-01, 2.98142403e-01]],
            [[1.49071202e-01, 5.96284807e-01], [4.47213590e-01, 1.49071202e-01]],
        ],
        rtol=4 * 2.0**-24,
    )
    np.testing.assert_allclose(got[0][0][0], 2 / 45**0.5, rtol=4 * 2.0**-53)


gradient_lists = st.lists(
    arrays(
        np.float64,
        array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
        elements=st.floats(-100, 100),
    ),
    max_size=4,
)
# 36 elements at most. Adding up their squares takes 36 roundings, and squaring one more; the root
# halves them and adds one: 20 in a norm. Two more scale an element. So 44 between an element here
# and there, and 62 between norms of them.
RTOL = 64 * 2.0**-53


@given(gradient_lists, st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_the_norm_is_kept_or_made_the_largest(gradients, max_norm):
    def norm(arrays):
        return np.linalg.norm(np.concatenate([np.zeros(1), *map(np.ravel, arrays)]))

    clipped = clip_by_global_norm(gradients, max_norm)
    assert [c.shape for c in clipped] == [np.shape(g) for g in gradients]
    np.testing.assert_allclose(norm(clipped), min(norm(gradients), max_norm), rtol=RTOL)
    for c, g in zip(clipped, gradients):
        assert isinstance(c, np.ndarray) and c.dtype == np.float64
        if norm(gradients) < max_norm * (1 - RTOL):
            np.testing.assert_array_equal(c, g)
        else:  # below 2^-1022 float64 has fewer digits
            expected = g * (max_norm / norm(gradients))
            np.testing.assert_allclose(c, expected, rtol=RTOL, atol=2.0**-1022)
        assert not np.shares_memory(c, g)


def test_near_the_largest_norm():
    """3 and 4 have the norm 5. A millionth above nothing happens, a millionth below all is scaled
    by as much, to 3 roundings: of the bound, the product and the quotient."""
    for max_norm in (5.0, 5.0 * (1 + 2.0**-20)):
        assert clip_by_global_norm([[3.0], [4.0]], max_norm) == [[3.0], [4.0]]
    scale = 1 - 2.0**-20
    np.testing.assert_allclose(
        clip_by_global_norm([[3.0], [4.0]], 5.0 * scale),
        [[3.0 * scale], [4.0 * scale]],
        rtol=3 * 2.0**-53,
    )


def test_no_gradients():
    assert clip_by_global_norm([], 1.0) == []


def test_nan_and_inf():
    """As ops.clip_by_global_norm: a norm of NaN clips nothing; with an infinite one what is finite
    becomes 0, and what is infinite NaN."""
    gradients = [[4.0], [np.nan, 1.0]]
    np.testing.assert_equal(clip_by_global_norm(gradients, 1.0), gradients)
    with np.errstate(invalid="ignore"):
        infinite = clip_by_global_norm([[4.0], [np.inf, 1.0]], 1.0)
    np.testing.assert_equal(infinite, [[0.0], [np.nan, 0.0]])
    with np.errstate(over="ignore"):  # 2e154 squared is over the largest float64
        np.testing.assert_equal(clip_by_global_norm([[4.0, 2e154]], 1.0), [[0.0, 0.0]])


@pytest.mark.parametrize("max_norm", [0.0, -1.0, np.inf, np.nan, "1", True, None])
def test_a_largest_norm_that_is_none(max_norm):
    message = f"'max_norm' must be a number, finite and greater than 0, but got {max_norm!r}."
    with pytest.raises(ValueError, match=message):
        clip_by_global_norm([[1.0]], max_norm)
