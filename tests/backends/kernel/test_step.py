"""The update, bit by bit."""

import shutil

import numpy as np
import pytest

from backends.kernel.launching import (
    DTYPES,
    UNIT,
    Formula,
    copies,
    launch,
    load,
    make,
    mixture,
    with_arrays,
)
from backends.kernel.references import assert_same_arrays, assert_same_bits, check, one_by_one
from backends.kernel.test_numbers import (
    test_a_master_follows_a_parameter_that_a_script_has_set as check_following,
)
from backends.kernel.test_numbers import test_every_rounding_is_to_nearest_even as check_rounding
from ms_adam.backends import toolchain
from ms_adam.backends.fused import SOURCE

ALL = dict(nesterov=True, amsgrad=True, max_grad_norm=2.0)
OPTIONS = {
    "default": {},
    "epsilon-hat": dict(epsilon_hat=True),
    "large epsilon": dict(eps=0.01),
    "large epsilon-hat": dict(eps=0.01, epsilon_hat=True),
    "no bias correction": dict(bias_correction=False),
    "beta1 = 0": dict(beta1=0.0),
    "beta2 = 0": dict(beta2=0.0),
    "nesterov": dict(nesterov=True),
    "amsgrad": dict(amsgrad=True),
    "decoupled": dict(decoupled=True),
    "loss scale": dict(loss_scale=1000.0),
    "clipping": dict(max_grad_norm=3.0),
    "clipping, no need": dict(max_grad_norm=1e6),
    "clipping, loss scale": dict(max_grad_norm=0.1, loss_scale=1024.0),
    "maximize": dict(maximize=True),
    "all, maximize": dict(maximize=True, max_grad_norm=3.0, loss_scale=3.0, nesterov=True),
    "all": dict(epsilon_hat=True, loss_scale=3.0, **ALL),
    "all, decoupled": dict(beta1=0.8, beta2=0.99, decoupled=True, loss_scale=0.1, **ALL),
}


@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize("name", OPTIONS)
def test_bits_of_every_dtype_and_option(kernel, name, step):
    formula = Formula(**OPTIONS[name])
    weights = mixture(np.random.default_rng(0), formula.loss_scale)
    check(kernel, formula, weights, step, (1e-3, 0.1), (0.01, 0.1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (4097,), (0, 4), (4, 0), (3, 5, 2)])
def test_shapes(kernel, shape, dtype):
    rng = np.random.default_rng(1)
    check(kernel, Formula(), [make(rng, shape, dtype, centralized=True)])


@pytest.mark.parametrize("scale", [1e-4, 1e-8, 1e6])
def test_size_of_gradients(kernel, scale):
    rng = np.random.default_rng(2)
    dtypes = ("bfloat16", "float32", "float64")
    weights = [make(rng, (1000,), dtype, scale=scale) for dtype in dtypes]
    check(kernel, Formula(), weights, step=5)


@pytest.mark.parametrize("shape", [(3, 5), (2, 100_000), (50_000, 2), (4, 3, 2, 2), (6, 1)])
def test_centralized_gradients_have_no_mean(kernel, shape):
    """A row may be longer than a chunk, and a chunk may hold many rows."""
    rng = np.random.default_rng(15)
    weights = [make(rng, (20_000,)), make(rng, shape, centralized=True, decayed=True)]
    weights[1].moment1[...] = 0.0
    check(kernel, Formula(beta1=0.0), weights, decays=(0.1,), threads=3)
    means = weights[1].moment1.astype(float).mean(axis=tuple(range(1, len(shape))))
    assert np.max(np.abs(means)) <= 4 * UNIT["float32"] * 5  # no element is larger than 5


# fmt: off
EXTREMES = [
    0.0, -0.0, 1.0, -1.0, 1e-8, 3e-5, 1e-19, 1e-30, 1e-38, -1e-40, 1e-45, 1e10, 1e19, -2e19, 1e30,
    3e38, -3e38, np.inf, -np.inf, np.nan,
]
# fmt: on


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": True},
        {"amsgrad": True},
        {"decoupled": True},
        {"loss_scale": 3.0, "nesterov": True, "amsgrad": True},
    ],
)
@pytest.mark.parametrize("decayed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_ordinary_and_extreme_values(kernel, dtype, decayed, options):
    """Each pair of extremes as gradient and first moment: NaN, Inf and overflow follow IEEE 754."""
    formula = Formula(**options)
    gradients, moments = (x.ravel() for x in np.meshgrid(EXTREMES, EXTREMES))
    extreme = make(np.random.default_rng(4), gradients.shape, dtype, decayed=decayed)
    extreme.gradient[...], extreme.moment1[...] = gradients, moments
    extreme.moment2[...] = np.abs(np.roll(moments, 7))
    extreme.vhat[...] = np.abs(np.roll(moments, 11))
    weights = [extreme] + [
        make(np.random.default_rng(size), (size,), dtype, shift=size % 5, decayed=decayed)
        for size in (1, 5, 127, 128, 129, 5000)
    ]
    check(kernel, formula, weights, 3, (0.01,), (0.1,))


def test_more_elements_than_float32_can_count(kernel):
    """The same 65,537 elements repeated: all copies must become equal."""
    part = make(np.random.default_rng(5), (2**16 + 1,))
    whole = with_arrays(part, lambda array: np.resize(array, 2**24 + 3))
    expected = one_by_one(Formula(), part, 1.0, 1, 1e-3, 0.0)
    assert launch(kernel, Formula(), [whole], threads=2) == 0
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(whole, name), np.resize(values, 2**24 + 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_alignment_and_neighbours(kernel, dtype):
    """An element by itself, in vectors or in their remainders, in a block or across two."""
    whole = make(np.random.default_rng(7), (300,), dtype)
    pieces = []
    for first, last in [(i, i + 1) for i in range(40)] + [(40, 63), (63, 200), (200, 300)]:
        piece = with_arrays(whole, lambda array, part=slice(first, last): array[part])
        pieces += copies([piece], shift=first % 7)
    assert launch(kernel, Formula(), pieces) == 0
    assert launch(kernel, Formula(), [whole]) == 0
    for name in ("weight", "moment1", "moment2"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        np.testing.assert_array_equal(joined, getattr(whole, name))


def test_an_epsilon_below_all_floats_still_prevents_0_by_0(kernel):
    weight = make(np.random.default_rng(11), (9,))
    weight.gradient[...] = weight.moment1[...] = weight.moment2[...] = 0.0
    before = weight.weight.copy()
    assert launch(kernel, Formula(eps=1e-60), [weight]) == 0
    np.testing.assert_array_equal(weight.weight, before)


# --- clipping ------------------------------------------------------------------------------------


def test_clipping_without_weights(kernel):
    assert launch(kernel, Formula(max_grad_norm=1.0), []) == 0


def test_clipping_of_gradients_that_are_not_finite(kernel):
    """As ops.clip_by_global_norm: NaN clips nothing, Inf makes the others zero."""
    for bad, others in ((np.nan, 1.0), (np.inf, 0.0)):
        weights = [make(np.random.default_rng(12), (5,)) for _ in range(2)]
        weights[0].gradient[2] = bad
        before = copies(weights)
        assert launch(kernel, Formula(max_grad_norm=1e-3), weights) == 0
        for old, new in zip(before, weights):
            for name, values in one_by_one(Formula(), old, others, 1, 1e-3, 0.0).items():
                assert_same_bits(getattr(new, name), values)
        assert np.isnan(weights[0].weight).sum() == 1


def test_clipping_does_not_overflow(kernel):
    weight = make(np.random.default_rng(13), (1000,))
    weight.gradient[...] *= np.float32(1e25)
    weight.moment1[...] = weight.moment2[...] = 0.0
    check(kernel, Formula(max_grad_norm=1.0), [weight])


def test_a_norm_at_its_limit_is_not_clipped(kernel):
    clipped = [make(np.random.default_rng(14), (2,))]
    clipped[0].gradient[...] = [3.0, 4.0]
    plain = copies(clipped)
    assert launch(kernel, Formula(max_grad_norm=5.0), clipped) == 0
    assert launch(kernel, Formula(), plain) == 0
    assert_same_arrays(clipped, plain)


# --- mutants: what these tests find --------------------------------------------------------------


def check_mixture(mutant):
    weights = mixture(np.random.default_rng(0))
    check(mutant, Formula(), weights, 3, (1e-3, 0.1), (0.01, 0.1))


MUTANTS = {
    "sign": (check_mixture, "decay_factor * w - Rule", "decay_factor * w + Rule"),
    "correction": (check_mixture, "step_size *= c2 / c1", "step_size *= 1 / c1"),
    "epsilon": (
        check_mixture,
        "std::sqrt(amsgrad ? vhat : v) + rates.epsilon",
        "std::sqrt((amsgrad ? vhat : v) + rates.epsilon)",
    ),
    "master": (check_mixture, "upper_half(master) == uint16_t(parameter)", "false"),
    "following": (
        lambda mutant: check_following(mutant, "bfloat16", {}),
        "upper_half(master) == uint16_t(parameter)",
        "true",
    ),
    "plain": (check_mixture, "rates.l2 == 0 && ", ""),
    "rounding": (
        lambda mutant: check_rounding(mutant, "bfloat16"),
        "0x8000 - (high & 1)",
        "0x8000",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_caught(monkeypatch, tmp_path, name):
    check, right, wrong = MUTANTS[name]
    source = shutil.copytree(SOURCE, tmp_path / "mutant")
    (path,) = (path for path in source.iterdir() if right in path.read_text(encoding="utf-8"))
    text = path.read_text(encoding="utf-8")
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    unoptimized = tuple(flag for flag in toolchain.FLAGS if flag != "-O3")
    monkeypatch.setattr(toolchain, "FLAGS", unoptimized)  # builds in a fifth of the time
    monkeypatch.setenv("MS_ADAM_CACHE", str(tmp_path / "cache"))
    mutant = load(source)
    with pytest.raises(AssertionError):
        check(mutant)
