"""How a launch reads its inputs: flat state, and refusals."""

import numpy as np
import pytest

from backends.kernel.launching import MOMENTS, Formula, copies, launch, make, mixture


@pytest.mark.parametrize("amsgrad", [False, True])
def test_flat_state_gives_the_same_bits(kernel, amsgrad):
    """The moments of a weight lie at its offset; the gaps stay as they are."""
    formula = Formula(amsgrad=amsgrad, nesterov=True)
    weights = [weight for weight in mixture(np.random.default_rng(16)) if weight.weight.size < 50]
    sizes, parts = {"float32": 3, "float64": 5}, []
    for weight in weights:
        dtype, size = weight.moment_dtype, weight.weight.size
        parts.append(slice(sizes[dtype], sizes[dtype] + size))
        sizes[dtype] += size + len(parts) % 4
    untouched = -7.0
    buffers = {d: [np.full(size, untouched, d) for _ in MOMENTS] for d, size in sizes.items()}
    gaps = {dtype: np.ones(size, bool) for dtype, size in sizes.items()}
    for weight, part in zip(weights, parts):
        gaps[weight.moment_dtype][part] = False
        for buffer, name in zip(buffers[weight.moment_dtype], MOMENTS):
            buffer[part] = getattr(weight, name).ravel()
    flat, more = copies(weights), (2, (1e-3, 0.1), (0.01, 0.1))
    offsets = [part.start for part in parts]
    assert launch(kernel, formula, weights, *more) == 0
    assert launch(kernel, formula, flat, *more, flat=(offsets, buffers)) == 0
    for one, other, part in zip(weights, flat, parts):
        np.testing.assert_array_equal(one.weight, other.weight)
        for buffer, name in zip(buffers[one.moment_dtype], MOMENTS):
            np.testing.assert_array_equal(buffer[part], getattr(one, name).ravel())
    for dtype, moments in buffers.items():
        for moment in moments:
            assert np.all(moment[gaps[dtype]] == untouched)


SHORT = np.zeros(9, np.float32)


@pytest.mark.parametrize(
    "change, flat",
    [
        ({"gradient": SHORT}, None),
        ({"moment1": SHORT}, None),
        ({"gradient_dtype": "int32"}, None),
        ({"group": 1}, None),
        ({"rounded_dtype": "float16", "rounded": SHORT.astype(np.float16)}, None),
        ({"rounded_dtype": "float64", "rounded": np.zeros(10)}, None),
        ({}, ([0, 11], "float32")),
        ({}, ([0, -1], "float32")),
        ({}, ([0, 10], "float64")),
    ],
)
def test_tensors_that_do_not_fit_are_refused_without_a_change(kernel, change, flat):
    good = make(np.random.default_rng(17), (10,))
    bad = make(np.random.default_rng(18), (10,))._replace(**change)
    before = good.weight.copy()
    if flat:
        flat = flat[0], {flat[1]: [np.zeros(20, flat[1])] * 3}
    assert launch(kernel, Formula(), [good, bad], flat=flat) != 0
    np.testing.assert_array_equal(good.weight, before)
