"""Momentum by hand, and its three forms against one another."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ms_adam.reference import SGD, Momentum

gradients_of_8_steps = arrays(np.float64, (8, 3), elements=st.floats(-8, 8))
rhos = st.sampled_from([0.0, 0.5, 0.9, 0.99])
# 8 steps at the rate 0.1 with velocities up to 64, each rounded twice a step and remembered, and
# weights up to 51, rounded once: 8 * (0.1 * 8 * 2 * 64 + 51) < 2048 roundings of numbers of size 1.
ATOL = 2048 * 2.0**-53


def follow(method, gradients, rates=None):
    w, state = np.ones(3), method.init(np.ones(3))
    for t, gradient in enumerate(gradients):
        w, state = method.step(w, gradient, state, learning_rate=rates and rates[t])
    return w


def test_by_hand():
    """rho = rate = 1/2, gradients 1, 1: velocities 1, 3/2; averaged 1/2, 3/4; corrected 1, 1."""
    ends = {
        ("velocity", False): 1 - 1 / 2 - 3 / 4,
        ("scaled", False): 1 - 1 / 2 - 3 / 4,
        ("ema", False): 1 - 1 / 4 - 3 / 8,
        ("ema", True): 1 - 1 / 2 - 1 / 2,
    }
    for (form, correction), end in ends.items():
        momentum = Momentum(0.5, 0.5, form, correction)
        assert follow(momentum, np.ones((2, 3))).tolist() == [end] * 3


def test_the_scaled_form_keeps_the_rates_that_gradients_came_with():
    """Gradients 1, 0 at rates 1/2, 1/4, rho = 1/2. Scaled: -1/2, then half of that again.
    Velocity: -1/2, then 1/4 * 1/2."""
    gradients, rates = np.array([[1.0] * 3, [0.0] * 3]), [0.5, 0.25]
    assert follow(Momentum(rho=0.5, form="scaled"), gradients, rates).tolist() == [0.25] * 3
    assert follow(Momentum(rho=0.5, form="velocity"), gradients, rates).tolist() == [0.375] * 3


@given(gradients_of_8_steps, rhos)
@settings(deadline=None)
def test_forms_agree_at_a_constant_rate(gradients, rho):
    velocity = follow(Momentum(0.1, rho), gradients)
    np.testing.assert_allclose(follow(Momentum(0.1, rho, "scaled"), gradients), velocity, 0, ATOL)
    averaged = Momentum(0.1 / (1 - rho), rho, "ema")
    np.testing.assert_allclose(follow(averaged, gradients), velocity, 0, ATOL)


@given(gradients_of_8_steps)
@settings(deadline=None)
def test_without_momentum_it_is_gradient_descent(gradients):
    expected = follow(SGD(0.1), gradients)
    for form in ("velocity", "scaled", "ema"):
        np.testing.assert_array_equal(follow(Momentum(0.1, 0.0, form), gradients), expected)


@given(arrays(np.float64, 3, elements=st.floats(-8, 8)), rhos)
@settings(deadline=None)
def test_corrected_averages_of_equal_gradients_are_that_gradient(gradient, rho):
    corrected = Momentum(0.1, rho, "ema", bias_correction=True)
    np.testing.assert_allclose(follow(corrected, [gradient] * 8), 1 - 0.8 * gradient, 0, ATOL)
