"""Threads and the floating-point mode."""

import numpy as np
import pytest

from backends.kernel.launching import Formula, copies, launch, make
from backends.kernel.references import assert_same_arrays, check


def test_bits_do_not_depend_on_threads(kernel):
    """Nor do sums: the norm of all gradients, the means of rows."""
    rng = np.random.default_rng(6)
    shapes = [(7,), (400_001,), (300, 1001), (3, 70_000), (0,), (2, 3), (100_000,)]
    dtypes = ["float32", "bfloat16", "float32", "float64", "float32", "float16", "float16"]
    weights = [
        make(rng, shape, dtype, decayed=True, centralized=True)
        for shape, dtype in zip(shapes, dtypes)
    ]
    formula = Formula(max_grad_norm=1.0, nesterov=True)
    results = []
    for threads in (1, 2, 3, 2, 3, 64):
        after = copies(weights)
        assert launch(kernel, formula, after, threads=threads, decays=(0.1,)) == 0
        results.append(after)
    check(kernel, formula, weights, decays=(0.1,), threads=3)
    for after in results:
        assert_same_arrays(after, weights)


@pytest.mark.parametrize("threads", [1, 3])
def test_subnormal_numbers_count_as_zero_for_any_caller(kernel, threads):
    """This thread computes with them, before and after."""
    small = np.full(400_000, 1e-40, np.float32)
    assert (small[:1] * np.float32(0.5))[0] > 0
    weight = make(np.random.default_rng(10), small.shape)
    weight.gradient[...], weight.moment1[...], weight.moment2[...] = 0.0, small, small
    assert launch(kernel, Formula(), [weight], threads=threads) == 0
    assert not weight.moment1.any() and not weight.moment2.any()
    assert (small[:1] * np.float32(0.5))[0] > 0
