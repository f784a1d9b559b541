"""SGD, Momentum, Nesterov, AdaGrad and RMSProp: by hand, and at published ends."""

import numpy as np
import pytest

from ms_adam.reference import SGD, AdaGrad, Momentum, Nesterov, RMSProp

CURVATURE = np.array([0.2, 1.0, 4.0])
START = np.array([-5.0, 1.0, -2.0])


def follow(method, gradients, rates=None):
    w, state = 1.0, method.init(1.0)
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
    w, state = follow(method, map(float, gradients))
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


# --- momentum ------------------------------------------------------------------------------------


def test_the_scaled_form_keeps_the_rates_that_gradients_came_with():
    """Gradients 1, 0 at rates 1/2, 1/4, rho = 1/2. Scaled: -1/2, then half of that again.
    Velocity: -1/2, then 1/4 * 1/2."""
    for form, end in (("scaled", 0.25), ("velocity", 0.375)):
        assert follow(Momentum(rho=0.5, form=form), [1.0, 0.0], [0.5, 0.25])[0] == end


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


def test_a_gradient_taken_at_the_parameter_makes_momentum_of_sutskevers_form():
    wrong, _ = descend(Nesterov(0.1, 0.9, "sutskever"), 10, ahead=False)
    np.testing.assert_array_equal(wrong, descend(Momentum(0.1, 0.9, "scaled"), 10)[0])
    assert np.max(np.abs(wrong - descend(Nesterov(0.1, 0.9, "sutskever"), 10)[0])) > 0.1


# --- RMSProp -------------------------------------------------------------------------------------


def test_rounding_makes_no_root_of_a_negative_variance():
    """Of equal gradients from a long past the variance is 0, and rounding leaves either sign."""
    rmsprop = RMSProp(1e-9, 0.9, centered=True)
    gradients = np.linspace(0.1, 1.0, 1000)
    state = rmsprop.init(gradients)._replace(mean_square=gradients**2, mean=gradients)
    _, after = rmsprop.step(gradients, gradients, state)
    assert np.any(after.mean_square - after.mean**2 < 0.0)
    assert np.all(np.isfinite(rmsprop.step(gradients, gradients, state)[0]))
