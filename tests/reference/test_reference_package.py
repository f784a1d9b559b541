"""What all methods have in common: the protocol, its errors, and no MindSpore."""

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ms_adam import reference
from ms_adam.reference.correction import bias_correction

METHODS = [
    reference.Adam(),
    reference.Adam(amsgrad=True, nesterov=True, epsilon="hat"),
    reference.Adam(weight_decay=0.1, centralize=True, epsilon="inside"),
    reference.Adam(weight_decay=0.1, decoupled=True, bias_correction=False),
    reference.Adam(maximize=True, weight_decay=0.1),
    reference.AdaMax(),
    reference.AdaMax(weight_decay=0.1, maximize=True, centralize=True),
    reference.SGD(),
    reference.Momentum(),
    reference.Momentum(form="scaled"),
    reference.Momentum(form="ema", bias_correction=True),
    reference.Nesterov(),
    reference.Nesterov(form="sutskever"),
    reference.AdaGrad(),
    reference.AdaGrad(epsilon="inside", initial_accumulator=0.1),
    reference.RMSProp(),
    reference.RMSProp(centered=True, epsilon="inside"),
    reference.CannAdamW(),
    reference.CannAdamW(amsgrad=True, maximize=True, dtype="bfloat16"),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=str)


def state_arrays(state):
    return {
        name: value
        for name, value in state._asdict().items()
        if name != "step" and value is not None
    }


@every_method
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_shapes_dtypes_and_inputs(method, data):
    """Any shape, 0-d and empty ones too; float64 out; what goes in is read-only, and not shared."""
    shape = data.draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64, np.int8]))
    elements = st.integers(-9, 9)
    w = data.draw(arrays(dtype, shape, elements=elements))
    state = method.init(w)
    for t in (1, 2):
        gradient = data.draw(arrays(dtype, shape, elements=elements))
        given_arrays = [w, gradient, *state_arrays(state).values()]
        for x in given_arrays:
            x.setflags(write=False)
        new_w, new_state = method.step(w, gradient, state)
        returned = [new_w, *state_arrays(new_state).values()]
        for i, x in enumerate(returned):
            assert type(x) is np.ndarray and x.dtype == np.float64 and x.shape == shape
            assert not any(np.shares_memory(x, y) for y in given_arrays + returned[:i])
        assert type(new_state) is type(state) and new_state.step == t
        w, state = new_w, new_state


@every_method
def test_a_fresh_state(method):
    state = method.init(np.ones((2, 3), np.float32))
    values = list(state_arrays(state).values())
    assert state.step == 0
    for i, x in enumerate(values):
        assert x.dtype == np.float64 and x.shape == (2, 3)
        assert not any(x is y for y in values[:i])


@every_method
def test_numbers_and_lists_are_arrays(method):
    w = np.array([[1.0, -2.0]])
    expected = method.step(w, w, method.init(w))
    got = method.step([[1, -2]], [[1, -2]], method.init([[1, -2]]))
    np.testing.assert_equal(tuple(got[1]), tuple(expected[1]))
    np.testing.assert_array_equal(got[0], expected[0])


@every_method
def test_an_element_on_its_own_is_the_same_to_the_last_bit(method):
    """NumPy has two ways to compute a number and an array; x**2 differs in one of a thousand."""
    w, g = np.random.default_rng(0).uniform(-100.0, 100.0, (2, 5000))
    together, state = method.step(w, g, method.init(w))
    alone = [method.step(w[i], g[i], method.init(w[i])) for i in range(len(w))]
    np.testing.assert_array_equal([x for x, _ in alone], together)
    for name, values in state_arrays(state).items():
        np.testing.assert_array_equal([getattr(s, name) for _, s in alone], values)


@every_method
def test_gradients_of_zero_from_the_start_leave_the_parameter(method):
    if isinstance(method, (reference.Adam, reference.AdaMax)):
        method = replace(method, weight_decay=0.0)
    w = start = np.array([[1.0, -2.0, 0.0]])
    state = method.init(w)
    for _ in range(3):
        w, state = method.step(w, np.zeros((1, 3)), state)
    np.testing.assert_array_equal(w, start)


@every_method
def test_a_learning_rate_for_one_step(method):
    w, state = method.step(np.ones(3), np.arange(3.0), method.init(np.ones(3)))
    other, _ = method.step(w, np.arange(3.0), state, learning_rate=0.25)
    changed, _ = replace(method, learning_rate=0.25).step(w, np.arange(3.0), state)
    np.testing.assert_array_equal(other, changed)
    assert np.any(other != method.step(w, np.arange(3.0), state)[0])


@every_method
def test_float32_numbers_lose_nothing(method):
    """0.3 in float32, and the same number in float64, are one method."""
    numbers = {
        f.name: np.float32(0.3) for f in fields(method) if type(getattr(method, f.name)) is float
    }
    single = replace(method, **numbers)
    double = replace(method, **{name: float(value) for name, value in numbers.items()})
    w = np.array([1.0, -2.0, 0.0])
    got, expected = (m.step(w, w + 1, m.init(w))[0] for m in (single, double))
    np.testing.assert_array_equal(got, expected)


@every_method
def test_shapes_that_differ(method):
    state = method.init(np.ones(3))
    with pytest.raises(ValueError, match=r"'gradient' must have .* shape, \(3,\), but got \(1,\)"):
        method.step(np.ones(3), np.ones(1), state)
    with pytest.raises(ValueError, match=r"'gradient' must have .* shape, \(\), but got None"):
        method.step(1.0, None, method.init(1.0))
    for name in state_arrays(state):
        with pytest.raises(ValueError, match=rf"'{name}' must have .* shape, \(3,\), but got \(\)"):
            method.step(np.ones(3), np.ones(3), state._replace(**{name: np.float64(0.0)}))


@every_method
@pytest.mark.parametrize("rate", [-0.1, np.nan, np.inf, "0.1"])
def test_a_learning_rate_that_is_none(method, rate):
    message = "'learning_rate' must be a number, finite and at least 0, but got"
    with pytest.raises(ValueError, match=message):
        replace(method, learning_rate=rate)
    with pytest.raises(ValueError, match=message):
        method.step(1.0, 1.0, method.init(1.0), learning_rate=rate)


NOT_ALLOWED = {
    "learning_rate": (-1.0, np.nan, np.inf, "0.1", True),
    "eps": (-1e-8, np.nan, np.inf),
    "beta": (1.0, -0.1, np.nan),
    "beta1": (1.0, -0.1, np.nan),
    "beta2": (1.0, -0.1, None),
    "rho": (1.0, -0.1, np.nan),
    "weight_decay": (-0.1, np.nan, np.inf),
    "loss_scale": (0.0, -1.0, np.inf, np.nan),
    "epsilon": ("below", None),
    "form": ("ewma", None),
    "initial_accumulator": (-0.1, np.inf),
    "initial_mean_square": (-0.1, np.inf),
    "bias_correction": ("no",),
    "nesterov": (None,),
    "amsgrad": ("corrected",),
    "decoupled": ("yes",),
    "centralize": (2,),
    "centered": ("mean",),
    "maximize": ("up",),
    "dtype": ("float64",),
}


@pytest.mark.parametrize(
    "method, name, value",
    [
        pytest.param(method, field.name, value, id=f"{type(method).__name__} {field.name}={value}")
        for method in {type(m).__name__: m for m in reversed(METHODS)}.values()
        for field in fields(method)
        for value in NOT_ALLOWED[field.name]
    ],
)
def test_what_is_not_allowed(method, name, value):
    with pytest.raises(ValueError) as error:
        replace(method, **{name: value})
    assert f"'{name}' must be" in str(error.value) and f"but got {value!r}" in str(error.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("beta1", Fraction(10**20 - 1, 10**20)),
        ("loss_scale", Fraction(1, 10**400)),
        ("learning_rate", 10**400),
    ],
)
def test_a_number_is_judged_by_its_float(name, value):
    """1.0, 0.0 and no float64 at all: they would divide by zero, or overflow, in a later step."""
    message = f"'{name}' must be a number, .* but got {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=message):
        reference.Adam(**{name: value})
    assert reference.Adam(beta1=Fraction(1, 2)) == reference.Adam(beta1=0.5)


def test_other_errors():
    with pytest.raises(ValueError, match="'bias_correction' must be False unless form is 'ema'"):
        reference.Momentum(bias_correction=True)
    with pytest.raises(ValueError, match="'weight_decay' must be a number.* but got -1"):
        reference.Adam().step(1.0, 1.0, reference.Adam().init(1.0), weight_decay=-1)
    with pytest.raises(ValueError, match=r"'vhat' must have .* shape, \(\), but got None"):
        reference.Adam(amsgrad=True).step(1.0, 1.0, reference.Adam().init(1.0))
    with pytest.raises(ValueError, match=r"'mean' must have .* shape, \(\), but got None"):
        reference.RMSProp(centered=True).step(1.0, 1.0, reference.RMSProp().init(1.0))
    with pytest.raises(FrozenInstanceError):
        reference.Adam().beta1 = 0.5


@given(st.integers(1, 10**6), st.sampled_from([0.0, 1e-3, 0.5, 0.9, 0.999, 1 - 2.0**-40]))
@settings(deadline=None)
def test_bias_correction(t, beta):
    """With x = 1 - beta: t x - t (t - 1) / 2 x^2 <= 1 - beta^t <= t x, from its binomial series;
    and by Python's integers where t is small.

    With u = 2^-53: log and expm1 are good to 2u, t * log is rounded once, and expm1 makes no
    relative error of a negative argument larger. That is 5u. The bounds take 3 roundings, the
    quotient of integers and its comparison 2.
    """
    got = bias_correction(beta, t)
    x = 1 - beta
    assert t * x - t * (t - 1) / 2 * x * x <= got * (1 + 8 * 2.0**-53)
    assert got <= min(t * x, 1.0) * (1 + 8 * 2.0**-53)
    if t <= 1000:
        n, d = beta.as_integer_ratio()
        assert abs(got / ((d**t - n**t) / d**t) - 1) <= 8 * 2.0**-53


def test_no_mindspore():
    code = "import sys, ms_adam.reference; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
