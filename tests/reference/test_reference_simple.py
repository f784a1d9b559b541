"""SGD, Momentum, Nesterov, AdaGrad and RMSProp: by hand, at published ends, by their identities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ms_adam.reference import SGD, AdaGrad, Momentum, Nesterov, RMSProp

gradients_of_8_steps = arrays(np.float64, (8, 3), elements=st.floats(-8, 8))
rhos = st.sampled_from([0.0, 0.5, 0.9, 0.99])
# 8 steps at the rate 0.1 with velocities up to 64, each rounded twice a step and remembered, and
# weights up to 51, rounded once: 8 * (0.1 * 8 * 2 * 64 + 51) < 2048 roundings of numbers of size 1.
ATOL = 2048 * 2.0**-53
CURVATURE = np.array([0.2, 1.0, 4.0])
START = np.array([-5.0, 1.0, -2.0])


def follow(method, gradients, w=(1.0, 1.0, 1.0), rates=None):
    state = method.init(w)
    for t, gradient in enumerate(gradients):
        w, state = method.step(w, gradient, state, learning_rate=rates and rates[t])
    return w, state


def descend(method, steps, w=START, curvature=CURVATURE, ahead=True):
    """Steps on 1/2 curvature x^2; `ahead`: with the gradient where the method wants it."""
    state = method.init(w)
    for _ in range(steps):
        place = method.lookahead(w, state) if ahead and isinstance(method, Nesterov) else w
        w, state = method.step(w, curvature * place, state)
    return w, state


# Of numbers up to 2, in two steps: AdaGrad a sum, a root, a quotient and a difference in each, and
# the end the same; RMSProp two more. Momentum is exact.
ROUNDINGS = {AdaGrad: 8, RMSProp: 10, Momentum: 0}


@pytest.mark.parametrize(
    "method, gradients, end",
    [
        (AdaGrad(1.0, eps=1.0), (3, 4), 1 - 3 / 4 - 4 / 6),  # sqrt(9) + 1, sqrt(25) + 1
        (AdaGrad(1.0, eps=0.0), (3, 4), 1 - 3 / 3 - 4 / 5),  # sqrt(9), sqrt(25)
        (AdaGrad(1.0, eps=0.0, initial_accumulator=16.0), (3, 4), 1 - 3 / 5 - 4 / 41**0.5),
        (AdaGrad(1.0, eps=16.0, epsilon="inside"), (3, 4), 1 - 3 / 5 - 4 / 41**0.5),
        # beta = 3/4:  s = 9, 27/4 + 1 = 31/4;  n = 3/2, 9/8 + 1/2 = 13/8
        (RMSProp(1.0, 0.75, 0.0), (6, 2), 1 - 6 / 3 - 2 / 7.75**0.5),
        (RMSProp(1.0, 0.75, 1.0), (6, 2), 1 - 6 / 4 - 2 / (7.75**0.5 + 1)),
        (RMSProp(1.0, 0.75, 7.0, "inside"), (6, 2), 1 - 6 / 4 - 2 / 14.75**0.5),
        (RMSProp(1.0, 0.75, 0.0, initial_mean_square=4.0), (6, 2), 1 - 6 / 12**0.5 - 2 / 10**0.5),
        (
            RMSProp(1.0, 0.75, 0.0, centered=True),
            (6, 2),
            1 - 6 / 6.75**0.5 - 2 / (7.75 - 2.640625) ** 0.5,
        ),
        (
            RMSProp(1.0, 0.75, 1.0, "inside", centered=True),
            (6, 2),
            1 - 6 / 7.75**0.5 - 2 / (8.75 - 2.640625) ** 0.5,
        ),
        # rho = rate = 1/2: velocities 1, 3/2; averaged 1/2, 3/4; corrected 1, 1
        (Momentum(0.5, 0.5, "velocity"), (1, 1), 1 - 1 / 2 - 3 / 4),
        (Momentum(0.5, 0.5, "scaled"), (1, 1), 1 - 1 / 2 - 3 / 4),
        (Momentum(0.5, 0.5, "ema"), (1, 1), 1 - 1 / 4 - 3 / 8),
        (Momentum(0.5, 0.5, "ema", True), (1, 1), 1 - 1 / 2 - 1 / 2),
    ],
    ids=str,
)
def test_by_hand(method, gradients, end):
    w, state = follow(method, map(float, gradients), 1.0)
    assert abs(w - end) <= ROUNDINGS[type(method)] * 2.0**-52
    if isinstance(method, AdaGrad):
        assert state.accumulator == 25.0 + method.initial_accumulator
    if isinstance(method, RMSProp):
        assert state.mean == (1.625 if method.centered else None)


@pytest.mark.parametrize(
    "method, end",
    [
        (SGD(0.4), [-0.943467, -7.3e-05]),
        (Momentum(0.6, 0.5), [0.007188, 0.002553]),
        (Momentum(0.6, 0.25), [-0.126340, -0.186632]),
        (AdaGrad(0.4, 1e-6, "inside"), [-2.382563, -0.158591]),
        (AdaGrad(2.0, 1e-6, "inside"), [-0.002295, 0.0]),
        (RMSProp(0.4, 0.9, 1e-6, "inside"), [-0.010599, 0.0]),
    ],
    ids=str,
)
def test_published_ends(method, end):
    """Zhang et al., Dive into Deep Learning, sections 12.6 to 12.8: f(x) = 0.1 x1^2 + 2 x2^2 from
    (-5, -2), 20 steps, printed with six digits."""
    x, state = descend(method, 20, np.array([-5.0, -2.0]), np.array([0.2, 4.0]))
    assert x.round(6).tolist() == end
    assert state.step == 20


@given(gradients_of_8_steps)
@settings(deadline=None)
def test_without_momentum_it_is_gradient_descent(gradients):
    expected = follow(SGD(0.1), gradients)[0]
    for form in ("velocity", "scaled", "ema"):
        np.testing.assert_array_equal(follow(Momentum(0.1, 0.0, form), gradients)[0], expected)
    for form in ("torch", "sutskever"):
        np.testing.assert_array_equal(
            descend(Nesterov(0.1, 0.0, form), 10)[0], descend(SGD(0.1), 10)[0]
        )


# --- gradient descent and momentum ---------------------------------------------------------------


def test_gradient_descent_on_a_quadratic():
    """x_t = (1 - rate * curvature)^t x_0."""
    x, _ = descend(SGD(0.4), 20, np.array([-5.0, -2.0]), np.array([0.2, 4.0]))
    # 4 roundings a step; the second factor, 1 - 1.6, triples their share
    np.testing.assert_allclose(x, [-5 * 0.92**20, -2 * 0.6**20], rtol=20 * 12 * 2.0**-53)


def test_a_rate_for_one_step():
    assert SGD(0.5).step(1.0, 2.0, SGD().init(1.0), learning_rate=0.25)[0] == 0.5


def test_the_scaled_form_keeps_the_rates_that_gradients_came_with():
    """Gradients 1, 0 at rates 1/2, 1/4, rho = 1/2. Scaled: -1/2, then half of that again.
    Velocity: -1/2, then 1/4 * 1/2."""
    for form, end in (("scaled", 0.25), ("velocity", 0.375)):
        assert follow(Momentum(rho=0.5, form=form), [1.0, 0.0], 1.0, [0.5, 0.25])[0] == end


@given(gradients_of_8_steps, rhos)
@settings(deadline=None)
def test_forms_agree_at_a_constant_rate(gradients, rho):
    velocity, _ = follow(Momentum(0.1, rho), gradients)
    for other in (Momentum(0.1, rho, "scaled"), Momentum(0.1 / (1 - rho), rho, "ema")):
        np.testing.assert_allclose(follow(other, gradients)[0], velocity, 0, ATOL)


@given(arrays(np.float64, 3, elements=st.floats(-8, 8)), rhos)
@settings(deadline=None)
def test_corrected_averages_of_equal_gradients_are_that_gradient(gradient, rho):
    corrected = Momentum(0.1, rho, "ema", bias_correction=True)
    np.testing.assert_allclose(follow(corrected, [gradient] * 8)[0], 1 - 0.8 * gradient, 0, ATOL)


# --- Nesterov ------------------------------------------------------------------------------------


def test_nesterov_by_hand():
    """rho = rate = 1/2, f = 1/2 x^2 from 1.
    sutskever: v = -1/2, w = 1/2; gradient at 1/2 - 1/4: v = -1/4 - 1/8, w = 1/8.
    torch:     v = 1, w = 1 - (1 + 1/2)/2 = 1/4; v = 3/4, w = 1/4 - (1/4 + 3/8)/2 = -1/16."""
    for form, ends in (("sutskever", (1 / 2, 1 / 8)), ("torch", (1 / 4, -1 / 16))):
        nesterov = Nesterov(0.5, 0.5, form)
        w, state = 1.0, nesterov.init(1.0)
        for end in ends:
            w, state = nesterov.step(w, nesterov.lookahead(w, state), state)
            assert w == end


@given(st.integers(1, 30), st.floats(0.01, 0.3), st.sampled_from([0.0, 0.5, 0.9]))
@settings(deadline=None)
def test_one_form_is_at_the_other_forms_look_ahead_point(steps, rate, rho):
    theirs, _ = descend(Nesterov(rate, rho, "torch"), steps)
    ours = Nesterov(rate, rho, "sutskever")
    # The iteration contracts; each step adds some 8 roundings of numbers up to 20.
    np.testing.assert_allclose(
        ours.lookahead(*descend(ours, steps)), theirs, 0, 30 * 8 * 20 * 2.0**-53
    )


def test_a_gradient_taken_at_the_parameter_makes_momentum_of_sutskevers_form():
    wrong, _ = descend(Nesterov(0.1, 0.9, "sutskever"), 10, ahead=False)
    np.testing.assert_array_equal(wrong, descend(Momentum(0.1, 0.9, "scaled"), 10)[0])
    assert np.max(np.abs(wrong - descend(Nesterov(0.1, 0.9, "sutskever"), 10)[0])) > 0.1


def test_it_is_faster_than_momentum_where_momentum_swings():
    """Curvature 4, rate 0.2, rho = 0.9: momentum shrinks by sqrt(0.9) a step, Nesterov's by
    sqrt(0.9 * (1 - 0.8))."""
    nesterov, momentum = descend(Nesterov(0.2), 40)[0], descend(Momentum(0.2), 40)[0]
    assert abs(nesterov[2]) < 1e-10 < 1e-2 < abs(momentum[2])


# --- AdaGrad and RMSProp -------------------------------------------------------------------------


def test_equal_gradients_give_one_over_root_t():
    w, _ = follow(AdaGrad(0.5, eps=0.0), [[1e-3, -1e3]] * 100, np.zeros(2))
    total = 0.5 * sum(t**-0.5 for t in range(1, 101))
    # s adds up to 100 squares, 100 roundings that the root halves; w and the total add up as many
    # terms, 200; 10 more for the root, the quotient, the product and t**-0.5
    np.testing.assert_allclose(w, [-total, total], rtol=260 * 2.0**-53)


def test_without_a_memory_a_step_is_the_sign_of_the_gradient():
    """beta = 0: g / sqrt(g^2). Centered, the variance is 0, and g / eps is left."""
    gradients = np.array([1e-3, -5.0, 1e3])
    for options, end in (
        (dict(eps=0.0), [-0.5, 0.5, -0.5]),
        (dict(eps=0.5, centered=True), -gradients),
    ):
        rmsprop = RMSProp(0.5, 0.0, **options)
        state = rmsprop.init(gradients)._replace(mean_square=np.full(3, 7.0))
        got, _ = rmsprop.step(np.zeros(3), gradients, state)
        # the square, its root, the product and the quotient: 4 roundings
        np.testing.assert_allclose(got, end, rtol=4 * 2.0**-53)


def test_rounding_makes_no_root_of_a_negative_variance():
    """Of equal gradients from a long past the variance is 0, and rounding leaves either sign."""
    rmsprop = RMSProp(1e-9, 0.9, centered=True)
    gradients = np.linspace(0.1, 1.0, 1000)
    state = rmsprop.init(gradients)._replace(mean_square=gradients**2, mean=gradients)
    _, after = rmsprop.step(gradients, gradients, state)
    assert np.any(after.mean_square - after.mean**2 < 0.0)
    assert np.all(np.isfinite(rmsprop.step(gradients, gradients, state)[0]))
