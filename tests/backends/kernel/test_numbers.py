"""Reading and rounding of numbers of 16 bits, exhaustively; master weights."""

import numpy as np
import pytest

from backends.kernel.launching import Formula, copies, launch, make, stored, value
from backends.kernel.references import assert_same_bits, flushed

NARROW = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@NARROW
def test_every_16_bit_number_is_read_exactly(kernel, dtype):
    """With beta1 = 0 the first moment is the gradient itself."""
    bits = np.arange(2**16, dtype=np.uint16)
    weight = make(np.random.default_rng(8), bits.shape, dtype)
    weight.gradient.view(np.uint16)[...] = bits
    weight.moment1[...] = 0.0
    expected = weight.numbers("gradient").astype(np.float32)
    assert launch(kernel, Formula(beta1=0.0), [weight]) == 0
    if dtype == "bfloat16":  # its subnormals are those of float32
        expected = flushed(expected)
    np.testing.assert_array_equal(weight.moment1, expected)


def still_masters(dtype):
    """Returns weights of all upper halves, around all ties, that a step does not change."""
    low = 13 if dtype == "float16" else 16
    upper = np.arange(2**16, dtype=np.uint32) << 16
    lower = [0, 1, 2 ** (low - 1) - 1, 2 ** (low - 1), 2 ** (low - 1) + 1, 2**low - 1]
    if dtype == "float16":  # three more bits belong to the fraction
        lower = [high << 13 | bits for high in range(8) for bits in lower]
    master = np.concatenate([upper | np.uint32(bits) for bits in lower]).view(np.float32)
    weight = make(np.random.default_rng(9), master.shape, "float32", rounded_dtype=dtype)
    weight.weight[...], weight.gradient[...], weight.moment1[...] = master, 0.0, 0.0
    with np.errstate(over="ignore"):
        weight.rounded[...] = stored(master, dtype)
    return weight


@NARROW
def test_every_rounding_is_to_nearest_even(kernel, dtype):
    """A master weight that does not change is rounded into its parameter."""
    weight = still_masters(dtype)
    expected = flushed(weight.weight)
    assert launch(kernel, Formula(), [weight], rates=(0.0,)) == 0
    np.testing.assert_array_equal(weight.weight, expected)
    with np.errstate(over="ignore"):
        rounded = value(stored(expected, dtype), dtype)
    assert_same_bits(weight.numbers("rounded"), rounded)


@NARROW
@pytest.mark.parametrize("step", [1, -1])
def test_a_master_follows_a_parameter_beside_its_rounding(kernel, dtype, step):
    """Also at a tie, where the neighbour is as close as the rounding."""
    weight = still_masters(dtype)
    real = np.isfinite(weight.weight)
    weight.rounded.view(np.uint16)[...] += np.uint16(step % 2**16)
    expected = flushed(weight.numbers("rounded").astype(np.float32))
    assert launch(kernel, Formula(), [weight], rates=(0.0,)) == 0
    np.testing.assert_array_equal(weight.weight[real], expected[real])


@NARROW
@pytest.mark.parametrize("more", [{}, {"decayed": True, "centralized": True}])
def test_a_master_follows_a_parameter_that_a_script_has_set(kernel, dtype, more):
    """Also where rows share a mean; untouched elements keep the bits that rounding drops."""
    rng = np.random.default_rng(19)
    weight = make(rng, (2049, 3), "float32", dtype, dtype, **more)
    changed = np.zeros(weight.weight.shape, bool)
    changed[::2] = True
    new = stored(rng.standard_normal(weight.weight.shape), dtype)
    changed &= new != weight.rounded  # some equal the rounding of their master by chance
    weight.rounded[changed] = new[changed]
    followed = weight._replace(weight=np.where(changed, value(new, dtype), weight.weight))
    (followed,) = copies([followed])
    followed.rounded[...] = stored(followed.weight, dtype)
    for one in (weight, followed):
        assert launch(kernel, Formula(), [one], decays=(0.1,)) == 0
    for name in ("weight", "rounded", "moment1"):
        np.testing.assert_array_equal(getattr(weight, name), getattr(followed, name))
