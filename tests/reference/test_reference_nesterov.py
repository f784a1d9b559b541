"""Nesterov's two forms are one method; the gradient's place makes the difference to momentum."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_adam.reference import SGD, Momentum, Nesterov

CURVATURE = np.array([0.2, 1.0, 4.0])
START = np.array([-5.0, 1.0, -2.0])


def follow(method, steps, ahead=True):
    """Steps on 1/2 curvature x^2; `ahead`: with the gradient where the method wants it."""
    w, state = START, method.init(START)
    for _ in range(steps):
        place = method.lookahead(w, state) if ahead else w
        w, state = method.step(w, CURVATURE * place, state)
    return w, state


def test_by_hand():
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
    theirs, _ = follow(Nesterov(rate, rho, "torch"), steps)
    ours = Nesterov(rate, rho, "sutskever")
    # The iteration contracts; each step adds some 8 roundings of numbers up to 20.
    np.testing.assert_allclose(
        ours.lookahead(*follow(ours, steps)), theirs, 0, 30 * 8 * 20 * 2.0**-53
    )


def test_a_gradient_taken_at_the_parameter_makes_momentum_of_sutskevers_form():
    wrong, _ = follow(Nesterov(0.1, 0.9, "sutskever"), 10, ahead=False)
    np.testing.assert_array_equal(wrong, follow_momentum(Momentum(0.1, 0.9, "scaled"), 10))
    assert np.max(np.abs(wrong - follow(Nesterov(0.1, 0.9, "sutskever"), 10)[0])) > 0.1


def follow_momentum(method, steps):
    w, state = START, method.init(START)
    for _ in range(steps):
        w, state = method.step(w, CURVATURE * w, state)
    return w


def test_without_momentum_it_is_gradient_descent():
    for form in ("torch", "sutskever"):
        np.testing.assert_array_equal(
            follow(Nesterov(0.1, 0.0, form), 10)[0], follow_momentum(SGD(0.1), 10)
        )


def test_it_is_faster_than_momentum_where_momentum_swings():
    """Curvature 4, rate 0.2, rho = 0.9: momentum shrinks by sqrt(0.9) a step, Nesterov's by
    sqrt(0.9 * (1 - 0.8))."""
    nesterov, momentum = follow(Nesterov(0.2), 40)[0], follow_momentum(Momentum(0.2), 40)
    assert abs(nesterov[2]) < 1e-10 < 1e-2 < abs(momentum[2])
