"""The kernel itself, without MindSpore: against exact arithmetic, element by element, and bit by bit.

Two references. `exact` computes the formula in long double with a bound on what roundings may do.
`one_by_one` makes the kernel's operations with NumPy in the moments' dtype: no product is fused with
a sum and every operation is rounded correctly, so the kernel must give the same bits, whatever the
vectors, their ends, the alignment or the threads.
"""

import ctypes
from typing import NamedTuple, Optional

import numpy as np
import pytest

from ms_adam.backends import fused, toolchain
from ms_adam.backends.fused import FUNCTION, SOURCE

LONG = np.longdouble
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}
NORMAL = {"float32": 2.0**-126, "float64": 2.0**-1022}  # what is smaller counts as zero
DTYPES = tuple(UNIT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MS_ADAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def load(source):
    return getattr(ctypes.CDLL(str(toolchain.build(source))), FUNCTION)


@pytest.fixture(scope="module")
def kernel(cache):
    return load(SOURCE)


# --- bfloat16, which NumPy has not -------------------------------------------------------------


def stored(values, dtype):
    """An array that holds values of a dtype; bfloat16 as uint16, rounded to nearest, ties to even."""
    if dtype != "bfloat16":
        return np.asarray(values, dtype=dtype)
    values = np.asarray(values, dtype=np.float32)
    with np.errstate(invalid="ignore"):
        exact = values.astype(float)
    # Eight bits of a fraction between 0.5 and 1; rint rounds ties to even.
    exponent = np.maximum(np.frexp(exact)[1], -125)  # subnormals have fewer
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(exact, 8 - exponent)), exponent - 8).astype(np.float32)
    rounded = np.where(np.isnan(values), np.float32(np.nan), rounded)
    return (rounded.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def value(array, dtype):
    """What an array holds, in a NumPy dtype that has it all."""
    if dtype != "bfloat16":
        return array
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)


# --- one launch --------------------------------------------------------------------------------


class Formula(NamedTuple):
    """As in ms_adam/formula.py, in the order of the kernel's `struct Formula`."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    loss_scale: float = 1.0
    max_grad_norm: float = np.inf
    epsilon_hat: bool = False
    bias_correction: bool = True
    nesterov: bool = False
    amsgrad: bool = False
    decoupled: bool = False
    lazy: bool = False
    maximize: bool = False


class Weight(NamedTuple):
    """One weight and what belongs to it; arrays of one shape."""

    dtype: str
    weight: np.ndarray
    gradient_dtype: str
    gradient: np.ndarray
    moment1: np.ndarray
    moment2: np.ndarray
    vhat: np.ndarray
    rounded_dtype: Optional[str] = None
    rounded: Optional[np.ndarray] = None
    group: int = 0
    decayed: bool = False
    centralized: bool = False

    @property
    def moment_dtype(self):
        return "float64" if self.dtype == "float64" else "float32"


def make(
    rng, shape, dtype="float32", gradient_dtype=None, rounded_dtype=None, scale=1.0, shift=0, **more
):
    """A weight in the middle of a training; its arrays begin `shift` elements after alignment."""
    gradient_dtype = gradient_dtype or dtype
    moment_dtype = "float64" if dtype == "float64" else "float32"

    def array(values, name):
        values = stored(values, name)
        room = np.empty(values.size + 64, values.dtype)
        first = -room.ctypes.data % 64 // values.itemsize + shift
        view = room[first : first + values.size].reshape(shape)
        view[...] = values
        return view

    normal = rng.standard_normal
    moment2 = (scale * normal(shape)) ** 2
    weight = array(normal(shape), dtype)
    rounded = array(weight, rounded_dtype) if rounded_dtype else None
    return Weight(
        dtype,
        weight,
        gradient_dtype,
        array(scale * normal(shape), gradient_dtype),
        array(scale * normal(shape), moment_dtype),
        array(moment2, moment_dtype),
        array(moment2 * (1 + 0.1 * normal(shape)), moment_dtype),
        rounded_dtype,
        rounded,
        **more,
    )


def copies(weights, shift=0):
    """The same values in memory of their own, `shift` elements after alignment."""

    def copy(array):
        if not isinstance(array, np.ndarray):
            return array
        room = np.empty(array.size + 64, array.dtype)
        first = -room.ctypes.data % 64 // array.itemsize + shift
        view = room[first : first + array.size].reshape(array.shape)
        view[...] = array
        return view

    return [Weight(*map(copy, weight)) for weight in weights]


def launch(kernel, formula, weights, step=1, rates=(1e-3,), decays=(0.0,), threads=1, flat=None):
    """Makes one step in place, as ops.Custom would.

    Args:
        flat: None, or offsets, and a dict from dtype to three buffers, which then take the place of
            the weights' moments.

    Returns:
        The kernel's answer, 0 for success, and both beta powers.
    """
    before = step - 1
    powers = [
        np.array(beta**before, np.float32) for beta in (formula.beta1, formula.beta2, formula.beta2)
    ]
    made = np.array([before], np.int32)
    offsets, buffers = flat or ([0] * len(weights), {})
    plan = [len(weights), len(rates), threads, len(buffers)]
    for weight, offset in zip(weights, offsets):
        plan += [
            0,
            weight.weight.size,
            weight.group,
            weight.decayed,
            weight.centralized,
            weight.rounded is not None,
            offset,
        ]
    formulas = np.array([formula] * (1 + len(rates)), np.float64)
    tensors = [
        (formulas, "float64"),
        (np.array(plan, np.int64), "int64"),
        (np.array([before], np.int32), "int32"),
        (made, "int32"),
    ]
    tensors += [(power, "float32") for power in powers]
    if formula.max_grad_norm < np.inf:
        tensors.append((np.zeros((), np.float32), "float32"))
    tensors += [(np.array(number, np.float32), "float32") for number in (*rates, *decays)]
    tensors += [(weight.gradient, weight.gradient_dtype) for weight in weights]
    tensors += [(weight.weight, weight.dtype) for weight in weights]
    tensors += [
        (weight.rounded, weight.rounded_dtype) for weight in weights if weight.rounded is not None
    ]
    for k, name in enumerate(("moment1", "moment2", "vhat")[: 3 if formula.amsgrad else 2]):
        if buffers:
            tensors += [(buffer[k], dtype) for dtype, buffer in buffers.items()]
        else:
            tensors += [(getattr(weight, name), weight.moment_dtype) for weight in weights]
    tensors.append((np.zeros(1, np.int32), "int32"))  # the output

    count = len(tensors)
    shapes = [(ctypes.c_int64 * max(1, array.ndim))(*array.shape) for array, _ in tensors]
    answer = kernel(
        count,
        (ctypes.c_void_p * count)(*[array.ctypes.data for array, _ in tensors]),
        (ctypes.c_int * count)(*[array.ndim for array, _ in tensors]),
        (ctypes.c_void_p * count)(*map(ctypes.addressof, shapes)),
        (ctypes.c_char_p * count)(*[dtype.encode() for _, dtype in tensors]),
        None,
        None,
    )
    assert made == before + (answer == 0)
    return answer, powers


# --- reference 1: exact arithmetic, and a bound --------------------------------------------------


def clipping(formula, weights):
    """What clipping leaves of the gradients."""
    squares = sum(np.sum(value(w.gradient, w.gradient_dtype).astype(LONG) ** 2) for w in weights)
    norm = np.sqrt(LONG(squares)) / LONG(formula.loss_scale)
    return formula.max_grad_norm / norm if norm > formula.max_grad_norm else LONG(1)


def exact(formula, weight, left, step, rate, decay):
    """The state after a step, and how far the kernel may be from it.

    The bounds carry each rounding through the formula to first order, with u the unit of the
    moments' dtype; a factor of 1.01 stands for the second order. Numbers of the step (rates,
    epsilon, clipping) are made of at most 16 roundings in double and one to u.

    Returns:
        {field: (values, bounds)}.
    """
    u, normal = LONG(UNIT[weight.moment_dtype]), LONG(NORMAL[weight.moment_dtype])
    number = u + 16 * LONG(2.0**-53)
    w, g, m, v, vhat = (
        value(array, dtype).astype(LONG)
        for array, dtype in (
            (weight.weight, weight.dtype),
            (weight.gradient, weight.gradient_dtype),
            (weight.moment1, weight.moment_dtype),
            (weight.moment2, weight.moment_dtype),
            (weight.vhat, weight.moment_dtype),
        )
    )
    rest1, rest2 = 1 - LONG(formula.beta1), 1 - LONG(formula.beta2)
    rate, decay = LONG(np.float32(rate)), LONG(np.float32(decay))

    # g: cast (from a wider dtype alone), factor, product.
    g = (-1 if formula.maximize else 1) * g * left / LONG(formula.loss_scale)
    error_g = (number + 2 * u) * np.abs(g)
    if weight.decayed and not formula.decoupled:  # product, sum
        g = g + decay * w
        error_g = error_g + u * np.abs(decay * w) + u * np.abs(g)
    if weight.centralized and g.ndim > 1:  # of what is summed in double; rounding, difference
        axes = tuple(range(1, g.ndim))
        mean, size = (np.mean(x, axis=axes, keepdims=True) if g.size else g for x in (g, np.abs(g)))
        error_g = error_g + (g[:1].size + 16) * LONG(2.0**-53) * size + u * np.abs(mean)
        g = g - mean
        error_g = error_g + u * np.abs(g)

    def toward(old, new, error_new, rest):
        """old + rest * (new - old): difference, factor, product, sum."""
        gap = np.abs(new - old)
        result = old + rest * (new - old)
        return result, (
            rest * (error_new + (u + number + u) * gap) + u * np.abs(result) + 3 * normal
        )

    m, error_m = toward(m, g, error_g, rest1)
    square, error_square = g**2, 2 * np.abs(g) * error_g + error_g**2 + u * g**2 + normal
    v, error_v = toward(v, square, error_square, rest2)
    used, error_used = v, error_v
    if formula.amsgrad:
        used = np.maximum(vhat, v)
    lead, error_lead = m, error_m
    if formula.nesterov:  # the moment's own error enters once more
        lead, error_lead = toward(m, g, error_g + error_m, rest1)
        error_lead = error_lead + error_m

    c1 = 1 - LONG(formula.beta1) ** step
    c2 = np.sqrt(1 - LONG(formula.beta2) ** step)
    corrected = formula.bias_correction
    step_size = rate * (c2 / c1 if corrected else 1)
    epsilon = LONG(formula.eps) * (c2 if corrected and not formula.epsilon_hat else 1)

    root = np.sqrt(used)
    with np.errstate(divide="ignore", invalid="ignore"):
        error_root = (
            np.where(
                root > 0, np.minimum(error_used / root, np.sqrt(error_used)), np.sqrt(error_used)
            )
            + u * root
        )
    divisor = root + epsilon
    error_divisor = error_root + number * epsilon + u * divisor
    update = step_size * lead / divisor
    smaller = np.maximum(divisor - error_divisor, epsilon / 2)
    error_update = (
        step_size * error_lead / smaller
        + (number + u) * np.abs(update)  # product
        + np.abs(update) * error_divisor / smaller
        + u * np.abs(update)
        + normal
    )
    retained = 1 - rate * decay if weight.decayed and formula.decoupled else LONG(1)
    after = retained * w - update
    error_w = error_update + u * np.abs(after)
    if weight.decayed and formula.decoupled:  # factor, product
        error_w = error_w + (number + u) * np.abs(retained * w)
    error_w = error_w + normal

    result = {
        "weight": (after, stored_error(after, error_w, weight.dtype)),
        "moment1": (m, error_m),
        "moment2": (v, error_v),
    }
    if formula.amsgrad:
        result["vhat"] = (used, error_used)
    if weight.rounded is not None:
        result["rounded"] = (after, stored_error(after, error_w, weight.rounded_dtype))
    return {name: (values, LONG(1.01) * bounds) for name, (values, bounds) in result.items()}


def stored_error(values, errors, dtype):
    """The error that is left after rounding to `dtype`."""
    if dtype in NORMAL:
        return errors
    return errors + UNIT[dtype] * (np.abs(values) + errors) + SMALLEST[dtype] / 2


def excess(kernel, formula, weights, step=1, rates=(1e-3,), decays=(0.0,), **more):
    """The largest error of any element, as a multiple of its bound."""
    before = copies(weights)
    left = clipping(formula, before)
    answer, powers = launch(kernel, formula, weights, step, rates, decays, **more)
    assert answer == 0
    for beta, power in zip((formula.beta1, formula.beta2, formula.beta2), powers):
        assert power == np.float32(beta**step)
    worst = 0.0
    for old, new in zip(before, weights):
        expected = exact(formula, old, left, step, rates[old.group], decays[old.group])
        for name, (values, bounds) in expected.items():
            dtype = {"weight": new.dtype, "rounded": new.rounded_dtype}.get(name, new.moment_dtype)
            got = value(getattr(new, name), dtype).astype(LONG)
            assert got.shape == values.shape
            if dtype == "float16":  # beyond its largest number is Inf
                got, values = np.clip(got, -65504, 65504), np.clip(values, -65504, 65504)
            if got.size:
                worst = max(worst, float(np.max(np.abs(got - values) / bounds)))
    return worst


OPTIONS = {
    "default": Formula(),
    "epsilon-hat": Formula(epsilon_hat=True),
    "large epsilon": Formula(eps=0.01),
    "large epsilon-hat": Formula(eps=0.01, epsilon_hat=True),
    "no bias correction": Formula(bias_correction=False),
    "beta1 = 0": Formula(beta1=0.0),
    "beta2 = 0": Formula(beta2=0.0),
    "nesterov": Formula(nesterov=True),
    "amsgrad": Formula(amsgrad=True),
    "decoupled": Formula(decoupled=True),
    "loss scale": Formula(loss_scale=1000.0),
    "clipping": Formula(max_grad_norm=3.0),
    "clipping, no need": Formula(max_grad_norm=1e6),
    "clipping, loss scale": Formula(max_grad_norm=0.1, loss_scale=1024.0),
    "maximize": Formula(maximize=True),
    "all, maximize": Formula(maximize=True, max_grad_norm=3.0, loss_scale=3.0, nesterov=True),
    "all": Formula(
        epsilon_hat=True, nesterov=True, amsgrad=True, loss_scale=3.0, max_grad_norm=2.0
    ),
    "all, decoupled": Formula(
        beta1=0.8,
        beta2=0.99,
        nesterov=True,
        amsgrad=True,
        decoupled=True,
        loss_scale=0.1,
        max_grad_norm=2.0,
    ),
}


def mixture(rng, scale=1.0):
    """Weights of all dtypes with gradients of all dtypes, in one launch."""
    kinds = [(dtype, None) for dtype in DTYPES] + [("float32", "float16"), ("float32", "bfloat16")]
    weights = []
    for dtype, rounded_dtype in kinds:
        for gradient_dtype in DTYPES:
            for shape in ((0,), (1,), (7,), (13, 21)):
                i = len(weights)
                weights.append(
                    make(
                        rng,
                        shape,
                        dtype,
                        gradient_dtype,
                        rounded_dtype,
                        scale,
                        shift=i % 3,
                        group=i % 2,
                        decayed=i % 3 > 0,
                        centralized=i % 5 > 2,
                    )
                )
    return weights


@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_element_is_within_its_roundings(kernel, name, step):
    formula = OPTIONS[name]
    weights = mixture(np.random.default_rng(0), formula.loss_scale)
    assert excess(kernel, formula, weights, step, (1e-3, 0.1), (0.01, 0.1)) <= 1.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (4097,), (0, 4), (4, 0), (3, 5, 2)])
def test_shapes(kernel, shape, dtype):
    rng = np.random.default_rng(1)
    assert excess(kernel, Formula(), [make(rng, shape, dtype, centralized=True)]) <= 1.0


def test_no_weights(kernel):
    assert launch(kernel, Formula(max_grad_norm=1.0), [])[0] == 0


@pytest.mark.parametrize("scale", [1e-4, 1e-8, 1e6])
def test_size_of_gradients(kernel, scale):
    rng = np.random.default_rng(2)
    weights = [
        make(rng, (1000,), dtype, scale=scale) for dtype in ("bfloat16", "float32", "float64")
    ]
    assert excess(kernel, Formula(), weights, step=5) <= 1.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_error_in_units_of_the_last_place(kernel, dtype):
    """What it comes to where the update is at most a hundredth of the weight, as it mostly is.

    The last rounding is half a unit. The update has been rounded about 12 times by then, each of
    at most one unit of the weight divided by 100; where it is rounded to 16 bits, units are larger
    by 2^13 or 2^16 and that is nothing.
    """
    weight = make(np.random.default_rng(3), (100_000,), dtype)
    before = copies([weight])[0]
    assert launch(kernel, Formula(), [weight], 10)[0] == 0
    values, _ = exact(Formula(), before, LONG(1), 10, 1e-3, 0.0)["weight"]
    start, got = (value(w.weight, dtype).astype(LONG) for w in (before, weight))
    usual = np.abs(values - start) <= np.abs(start) / 100
    assert np.mean(usual) > 0.8
    unit = 2 * LONG(UNIT[dtype]) * 2 ** np.floor(np.log2(np.abs(values[usual])))
    units = np.max(np.abs(got - values)[usual] / unit)
    assert units <= (0.62 if dtype in NORMAL else 0.501)


# --- reference 2: the same operations, one by one ------------------------------------------------


def one_by_one(formula, weight, left, step, rate, decay):
    """The kernel's operations with NumPy, in the dtype of the moments; subnormals become zero."""
    real = np.dtype(weight.moment_dtype).type

    def flushed(x):
        return np.where(np.abs(x) < np.finfo(real).tiny, np.copysign(real(0), x), x)

    rate, decay = float(np.float32(rate)), float(np.float32(decay))
    c1 = -np.expm1(step * np.log(formula.beta1))
    c2 = np.sqrt(-np.expm1(step * np.log(formula.beta2)))
    scale = real(1.0 / formula.loss_scale * float(left))
    rest1, rest2 = real(1.0 - formula.beta1), real(1.0 - formula.beta2)
    step_size, epsilon = real(rate * (c2 / c1)), real(formula.eps * c2)
    with np.errstate(all="ignore"):
        w, g, m, v, vhat = (
            flushed(value(array, dtype).astype(real))
            for array, dtype in (
                (weight.weight, weight.dtype),
                (weight.gradient, weight.gradient_dtype),
                (weight.moment1, weight.moment_dtype),
                (weight.moment2, weight.moment_dtype),
                (weight.vhat, weight.moment_dtype),
            )
        )
        g = flushed(scale * g)
        if weight.decayed and not formula.decoupled:
            g = flushed(g + flushed(real(decay) * w))
        m = flushed(m + flushed(rest1 * flushed(g - m)))
        v = flushed(v + flushed(rest2 * flushed(flushed(g * g) - v)))
        used = np.maximum(vhat, v) if formula.amsgrad else v
        lead = flushed(m + flushed(rest1 * flushed(g - m))) if formula.nesterov else m
        if weight.decayed and formula.decoupled:
            w = flushed(real(1.0 - rate * decay) * w)
        w = flushed(w - flushed(flushed(step_size * lead) / (np.sqrt(used) + epsilon)))
    return {"weight": w, "moment1": m, "moment2": v, **({"vhat": used} if formula.amsgrad else {})}


def assert_same_bits(got, expected):
    np.testing.assert_array_equal(got, expected)  # NaN equals NaN
    real = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got)[real], np.signbit(expected)[real])


EXTREMES = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-8,
    3e-5,
    1e-19,
    1e-30,
    1e-38,
    -1e-40,
    1e-45,
    1e10,
    1e19,
    -2e19,
    1e30,
    3e38,
    -3e38,
    np.inf,
    -np.inf,
    np.nan,
]


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
    """Every pair of extremes as gradient and first moment: NaN, Inf and overflow as IEEE has them."""
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
    before = copies(weights)
    assert launch(kernel, formula, weights, 3, (0.01,), (0.1,))[0] == 0
    for old, new in zip(before, weights):
        for name, values in one_by_one(formula, old, 1.0, 3, 0.01, 0.1).items():
            assert_same_bits(getattr(new, name), values)


def test_more_elements_than_float32_can_count(kernel):
    """The same 65,537 elements over and over: each copy must become the same."""
    part = make(np.random.default_rng(5), (2**16 + 1,))
    whole = Weight(
        *(np.resize(array, 2**24 + 3) if isinstance(array, np.ndarray) else array for array in part)
    )
    expected = one_by_one(Formula(), part, 1.0, 1, 1e-3, 0.0)
    assert launch(kernel, Formula(), [whole], threads=2)[0] == 0
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(whole, name), np.resize(values, 2**24 + 3))


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
        assert launch(kernel, formula, after, threads=threads, decays=(0.1,))[0] == 0
        results.append(after)
    assert excess(kernel, formula, weights, decays=(0.1,), threads=3) <= 1.0
    for after in results:
        for one, other in zip(after, weights):
            for a, b in zip(one, other):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_alignment_and_neighbours(kernel, dtype):
    """An element alone, in vectors or at their ends, in a block or across two."""
    rng = np.random.default_rng(7)
    whole = make(rng, (300,), dtype)
    pieces = []
    for first, last in [(i, i + 1) for i in range(40)] + [(40, 63), (63, 200), (200, 300)]:
        piece = [array[first:last] if isinstance(array, np.ndarray) else array for array in whole]
        pieces += copies([Weight(*piece)], shift=first % 7)
    assert launch(kernel, Formula(), pieces)[0] == 0
    assert launch(kernel, Formula(), [whole])[0] == 0
    for name in ("weight", "moment1", "moment2"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(p, name) for p in pieces]), getattr(whole, name)
        )


# --- conversions, exhaustively -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_number_is_read_as_what_it_is(kernel, dtype):
    """With beta1 = 0 the first moment is the gradient itself."""
    bits = np.arange(2**16, dtype=np.uint16)
    weight = make(np.random.default_rng(8), bits.shape, dtype)
    weight.gradient.view(np.uint16)[...] = bits
    weight.moment1[...] = 0.0
    expected = value(weight.gradient, dtype).astype(np.float32)
    assert launch(kernel, Formula(beta1=0.0), [weight])[0] == 0
    if dtype == "bfloat16":  # its subnormals are those of float32
        expected = np.where(np.abs(expected) < NORMAL["float32"], np.float32(0), expected)
    np.testing.assert_array_equal(weight.moment1, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_rounding_is_to_nearest_even(kernel, dtype):
    """A master weight that does not change is rounded into its parameter."""
    low = 13 if dtype == "float16" else 16
    upper = np.arange(2**16, dtype=np.uint32) << 16
    lower = [0, 1, 2 ** (low - 1) - 1, 2 ** (low - 1), 2 ** (low - 1) + 1, 2**low - 1]
    if dtype == "float16":  # three more bits belong to the fraction
        lower = [high << 13 | bits for high in range(8) for bits in lower]
    master = np.concatenate([upper | np.uint32(bits) for bits in lower]).view(np.float32)
    weight = make(np.random.default_rng(9), master.shape, "float32", rounded_dtype=dtype)
    weight.weight[...], weight.gradient[...] = master, stored(np.zeros(1), dtype)
    weight.moment1[...] = 0.0
    with np.errstate(over="ignore"):
        weight.rounded[...] = stored(master, dtype)
    assert launch(kernel, Formula(), [weight], rates=(0.0,))[0] == 0
    flushed = np.where(
        np.abs(master) < NORMAL["float32"], np.copysign(np.float32(0), master), master
    )
    np.testing.assert_array_equal(weight.weight, flushed)
    with np.errstate(over="ignore"):
        expected = value(stored(flushed, dtype), dtype)
    assert_same_bits(value(weight.rounded, dtype), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_master_follows_a_parameter_that_somebody_has_set(kernel, dtype):
    """Also where rows share a mean; untouched elements keep the bits that rounding drops."""
    rng = np.random.default_rng(19)
    for more in ({}, {"decayed": True, "centralized": True}):
        weight = make(rng, (2049, 3), "float32", dtype, dtype, **more)
        changed = np.zeros(weight.weight.shape, bool)
        changed[::2] = True
        new = stored(rng.standard_normal(weight.weight.shape), dtype)
        changed &= new != weight.rounded  # some are the rounding of their master by chance
        weight.rounded[changed] = new[changed]
        followed = weight._replace(weight=np.where(changed, value(new, dtype), weight.weight))
        (followed,) = copies([followed])
        followed.rounded[...] = stored(followed.weight, dtype)
        for one in (weight, followed):
            assert launch(kernel, Formula(), [one], decays=(0.1,))[0] == 0
        np.testing.assert_array_equal(weight.weight, followed.weight)
        np.testing.assert_array_equal(weight.rounded, followed.rounded)
        np.testing.assert_array_equal(weight.moment1, followed.moment1)


# --- the rest ------------------------------------------------------------------------------------


def test_subnormal_numbers_count_as_zero_whoever_calls(kernel):
    """This thread computes with them, before and after."""
    small = np.full(400_000, 1e-40, np.float32)
    assert (small[:1] * np.float32(0.5))[0] > 0
    for threads in (1, 3):
        weight = make(np.random.default_rng(10), small.shape)
        weight.gradient[...], weight.moment1[...], weight.moment2[...] = 0.0, small, small
        assert launch(kernel, Formula(), [weight], threads=threads)[0] == 0
        assert not weight.moment1.any() and not weight.moment2.any()
    assert (small[:1] * np.float32(0.5))[0] > 0


def test_an_epsilon_below_all_floats_still_keeps_zero_from_zero(kernel):
    weight = make(np.random.default_rng(11), (9,))
    weight.gradient[...] = weight.moment1[...] = weight.moment2[...] = 0.0
    before = weight.weight.copy()
    assert launch(kernel, Formula(eps=1e-60), [weight])[0] == 0
    np.testing.assert_array_equal(weight.weight, before)


def test_clipping_of_gradients_that_are_not_finite(kernel):
    """As ops.clip_by_global_norm: NaN clips nothing, Inf makes zeros of the others."""
    for bad, others in ((np.nan, 1.0), (np.inf, 0.0)):
        weights = [make(np.random.default_rng(12), (5,)) for _ in range(2)]
        weights[0].gradient[2] = bad
        before = copies(weights)
        assert launch(kernel, Formula(max_grad_norm=1e-3), weights)[0] == 0
        for old, new in zip(before, weights):
            for name, values in one_by_one(Formula(), old, others, 1, 1e-3, 0.0).items():
                assert_same_bits(getattr(new, name), values)
        assert np.isnan(weights[0].weight).sum() == 1


def test_clipping_does_not_overflow(kernel):
    weights = [make(np.random.default_rng(13), (1000,))]
    weights[0].gradient[...] *= np.float32(1e25)
    weights[0].moment1[...] = weights[0].moment2[...] = 0.0
    assert excess(kernel, Formula(max_grad_norm=1.0), weights) <= 1.0


def test_a_norm_at_its_limit_is_left_alone(kernel):
    weights = [make(np.random.default_rng(14), (2,))]
    weights[0].gradient[...] = [3.0, 4.0]
    plain = copies(weights)
    assert launch(kernel, Formula(max_grad_norm=5.0), weights)[0] == 0
    assert launch(kernel, Formula(), plain)[0] == 0
    np.testing.assert_array_equal(weights[0].weight, plain[0].weight)


@pytest.mark.parametrize("shape", [(3, 5), (2, 100_000), (50_000, 2), (4, 3, 2, 2), (6, 1)])
def test_centralized_gradients_have_no_mean(kernel, shape):
    """A row may be longer than a chunk, and a chunk may hold many rows."""
    rng = np.random.default_rng(15)
    weights = [make(rng, (20_000,)), make(rng, shape, centralized=True, decayed=True)]
    weights[1].moment1[...] = 0.0
    assert excess(kernel, Formula(beta1=0.0), weights, decays=(0.1,), threads=3) <= 1.0
    means = weights[1].moment1.astype(float).mean(axis=tuple(range(1, len(shape))))
    assert np.max(np.abs(means)) <= 4 * UNIT["float32"] * 5  # no element is larger than 5


@pytest.mark.parametrize("amsgrad", [False, True])
def test_flat_state_gives_the_same_bits(kernel, amsgrad):
    """Each weight's moments lie at its offset; what is between stays as it is."""
    formula = Formula(amsgrad=amsgrad, nesterov=True)
    weights = [weight for weight in mixture(np.random.default_rng(16)) if weight.weight.size < 50]
    sizes, offsets = {"float32": 3, "float64": 5}, []
    for weight in weights:
        offsets.append(sizes[weight.moment_dtype])
        sizes[weight.moment_dtype] += weight.weight.size + len(offsets) % 4
    untouched = -7.0
    buffers = {
        dtype: [np.full(size, untouched, dtype) for _ in range(3)] for dtype, size in sizes.items()
    }
    taken = {dtype: np.zeros(size, bool) for dtype, size in sizes.items()}
    for weight, offset in zip(weights, offsets):
        part = slice(offset, offset + weight.weight.size)
        taken[weight.moment_dtype][part] = True
        for buffer, name in zip(buffers[weight.moment_dtype], ("moment1", "moment2", "vhat")):
            buffer[part] = getattr(weight, name).ravel()
    flat = copies(weights)
    assert launch(kernel, formula, weights, 2, (1e-3, 0.1), (0.01, 0.1))[0] == 0
    assert (
        launch(kernel, formula, flat, 2, (1e-3, 0.1), (0.01, 0.1), flat=(offsets, buffers))[0] == 0
    )
    for one, other, offset in zip(weights, flat, offsets):
        np.testing.assert_array_equal(one.weight, other.weight)
        for buffer, name in zip(buffers[one.moment_dtype], ("moment1", "moment2", "vhat")):
            np.testing.assert_array_equal(
                buffer[offset : offset + one.weight.size], getattr(one, name).ravel()
            )
    for dtype, parts in buffers.items():
        for part in parts:
            assert np.all(part[~taken[dtype]] == untouched)


def test_what_does_not_fit_is_refused_and_nothing_is_changed(kernel):
    def refused(change, **more):
        good = make(np.random.default_rng(17), (10,))
        weights = [good, change(make(np.random.default_rng(18), (10,)))]
        before = good.weight.copy()
        answer, _ = launch(kernel, Formula(), weights, **more)
        np.testing.assert_array_equal(good.weight, before)
        return answer != 0

    short = np.zeros(9, np.float32)
    assert refused(lambda w: w._replace(gradient=short))
    assert refused(lambda w: w._replace(moment1=short))
    assert refused(lambda w: w._replace(gradient_dtype="int32"))
    assert refused(lambda w: w._replace(group=1))
    assert refused(lambda w: w._replace(rounded_dtype="float16", rounded=short.astype(np.float16)))
    assert refused(lambda w: w._replace(rounded_dtype="float64", rounded=np.zeros(10)))
    buffers = {"float32": [np.zeros(20, np.float32)] * 3}
    assert refused(lambda w: w, flat=([0, 11], buffers))
    assert refused(lambda w: w, flat=([0, -1], buffers))
    assert refused(lambda w: w, flat=([0, 10], {"float64": [np.zeros(20)] * 3}))


# --- what decides about threads, and what keeps the kernel from running --------------------------


@pytest.mark.parametrize(
    "cores, bound, environment, expected",
    [
        (8, 8, {}, 8),
        (8, 8, {"OMP_NUM_THREADS": "3"}, 3),
        (8, 8, {"OMP_NUM_THREADS": "16,2"}, 16),
        (8, 8, {"OMP_NUM_THREADS": "many"}, 8),
        (8, 8, {"MS_WORKER_NUM": "2"}, 4),  # msrun
        (8, 8, {"MS_WORKER_NUM": "16"}, 1),
        (
            8,
            8,
            {"MS_WORKER_NUM": "16", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"},
            2,
        ),  # mpirun, four machines
        (8, 2, {"MS_WORKER_NUM": "4"}, 2),  # msrun --bind_core
        (8, 2, {}, 2),  # taskset
    ],
)
def test_thread_count(monkeypatch, cores, bound, environment, expected):
    for name in ("OMP_NUM_THREADS", "MS_WORKER_NUM", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(fused.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(fused.os, "sched_getaffinity", lambda pid: set(range(bound)))
    assert fused.thread_count() == expected


@pytest.fixture
def fresh(cache, monkeypatch):
    """The answer about the library is not remembered from or for other tests."""
    fused.kernel_library.cache_clear()
    yield monkeypatch
    fused.kernel_library.cache_clear()


def obstacle(device_target="CPU"):
    return fused.Fused.obstacle(None, (), device_target)


def test_no_obstacle(fresh):
    assert obstacle() is None


@pytest.mark.parametrize("device_target", ["GPU", "Ascend"])
def test_other_devices_are_an_obstacle(fresh, device_target):
    assert obstacle(device_target) == f"the kernel is for the CPU, not for {device_target}"


def test_no_compiler_is_an_obstacle(fresh, tmp_path):
    fresh.setenv("PATH", str(tmp_path))
    fresh.delenv("CXX", raising=False)
    assert "no C++ compiler was found; looked for $CXX (not set), c++, g++" in obstacle()


def test_a_library_that_can_not_be_loaded_is_an_obstacle(fresh, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    fresh.setattr(fused.toolchain, "build", lambda source: broken)
    assert obstacle().startswith("the kernel was built and can not be loaded: ")


def test_what_mindspore_does_not_load_is_an_obstacle(fresh, tmp_path):
    fresh.setenv("MS_CUSTOM_AOT_WHITE_LIST", str(tmp_path))
    assert f"allows kernels in {tmp_path} alone" in obstacle()
    fused.kernel_library.cache_clear()
    library = toolchain.build(SOURCE)
    fresh.setenv("MS_CUSTOM_AOT_WHITE_LIST", str(library.parent))
    assert obstacle() is None
    fused.kernel_library.cache_clear()
    fresh.delenv("MS_CUSTOM_AOT_WHITE_LIST")
    colon = tmp_path / "a:b"
    colon.mkdir()
    (colon / library.name).write_bytes(library.read_bytes())
    fresh.setattr(fused.toolchain, "build", lambda source: colon / library.name)
    assert "takes no kernel from a path with a colon" in obstacle()


# --- what the comparison is worth ----------------------------------------------------------------

MUTANTS = {
    "sign": ("rates.retained * w - rates", "rates.retained * w + rates"),
    "correction": ("f.bias_correction ? c2 / c1", "f.bias_correction ? 1 / c1"),
    "epsilon": ("std::sqrt(v) + rates.epsilon", "std::sqrt(v + rates.epsilon)"),
    "master": ("return rounding == stored", "return rounding != stored"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_caught(cache, tmp_path, name):
    right, wrong = MUTANTS[name]
    text = SOURCE.read_text(encoding="utf-8")
    assert text.count(right) == 1
    source = tmp_path / "mutant.cc"
    source.write_text(text.replace(right, wrong), encoding="utf-8")
    weights = mixture(np.random.default_rng(0))
    assert excess(load(source), Formula(), weights, 3, (1e-3, 0.1), (0.01, 0.1)) > 10.0


def test_a_wrong_rounding_is_caught(cache, tmp_path):
    text = SOURCE.read_text(encoding="utf-8")
    source = tmp_path / "mutant.cc"
    right = "((bits >> 16) & 1u)) >> 16;"
    assert text.count(right) == 1
    source.write_text(text.replace(right, "1u) >> 16;"), encoding="utf-8")
    with pytest.raises(AssertionError):
        test_every_rounding_is_to_nearest_even(load(source), "bfloat16")
