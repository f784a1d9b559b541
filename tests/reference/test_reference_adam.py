"""Adam by hand, by its identities, and on the problem on which it fails."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ms_adam.reference import AdaGrad, Adam

U = 2.0**-53  # the largest relative error of one rounding


def follow(adam, w, gradients):
    state = adam.init(w)
    for gradient in gradients:
        w, state = adam.step(w, gradient, state)
    return w, state


# By hand. With beta1 = 1/2, beta2 = 3/4 and the gradients 3, 17:
#   m = 3/2, 37/4     mhat = m / (1/2, 3/4)  = 3, 37/3
#   v = 9/4, 1183/16  vhat = v / (1/4, 7/16) = 9, 169      sqrt(vhat) = 3, 13
BY_HAND = [
    # 1 - 3/4,  1/4 - (37/3)/14
    (dict(eps=1.0), (3, 17), ("1/4", "-53/84")),
    # 1 - 3/6,  1/2 - (37/3)/14
    (dict(eps=27.0, epsilon="inside"), (3, 17), ("1/2", "-8/21")),
    # alpha_1 = sqrt(1/4) / (1/2) = 1:  1 - (3/2) / (3/2 + 1)
    (dict(eps=1.0, epsilon="hat"), (3,), ("2/5",)),
    (dict(eps=1.0, bias_correction=False), (3,), ("2/5",)),
    # m/2 + g/2 = 9/4, 105/8, corrected 9/2, 35/2:  1 - (9/2)/4,  -1/8 - (35/2)/14
    (dict(eps=1.0, nesterov=True), (3, 17), ("-1/8", "-11/8")),
    # v = 9/4, 27/16, but the largest stays 9/4:  1 - (3/2)/2,  1/4 - (3/4)/2
    (dict(eps=0.5, bias_correction=False, amsgrad=True), (3, 0), ("1/4", "-1/8")),
    # g + 2w = 1 + 2,  33/2 + 2/4
    (dict(eps=1.0, weight_decay=2.0), (1, Fraction(33, 2)), ("1/4", "-53/84")),
    # g/4 + 2w: the decay is not scaled
    (dict(eps=1.0, weight_decay=2.0, loss_scale=4.0), (4, 66), ("1/4", "-53/84")),
    # 1 - 3/4 - 1/2,  -1/4 - 37/42 + 1/8
    (dict(eps=1.0, weight_decay=0.5, decoupled=True), (3, 17), ("-1/4", "-169/168")),
]


@pytest.mark.parametrize("options, gradients, expected", BY_HAND, ids=str)
def test_by_hand(options, gradients, expected):
    adam = Adam(1.0, 0.5, 0.75, **options)
    w, state = 1.0, adam.init(1.0)
    for gradient, value in zip(gradients, expected):
        w, state = adam.step(w, float(gradient), state)
        # 20 roundings of numbers of size 2
        assert abs(w - float(Fraction(value))) <= 40 * U


def test_epsilon_hat_by_hand_in_the_second_step():
    """beta1 = 1/2, beta2 = 3/5: sqrt(1 - 9/25) / (1 - 1/4) = 16/15. From m = 1, v = 10 and with the
    gradient 5: m = 3, v = 6 + 10 = 16; 1 - 16/15 * 3 / (4 + 1) = 9/25."""
    adam = Adam(1.0, 0.5, 0.6, 1.0, "hat")
    state = adam.init(1.0)._replace(step=1, moment1=np.float64(1.0), moment2=np.float64(10.0))
    w, state = adam.step(1.0, 5.0, state)
    assert state.step == 2 and state.moment1 == 3.0
    assert abs(w - 9 / 25) <= 20 * U  # of numbers up to 1; moments that are larger count as 1


def test_centralized_by_hand():
    """w + g = [[2, 8], [2, -2]], less the rows' means 5 and 0: [[-3, 3], [2, -2]]; and
    mhat / (sqrt(vhat) + 1) = [[-3/4, 3/4], [2/3, -2/3]]."""
    adam = Adam(1.0, 0.5, 0.75, eps=1.0, weight_decay=1.0, centralize=True)
    w = np.array([[1.0, 3.0], [0.0, 0.0]])
    got, state = adam.step(w, [[1.0, 5.0], [2.0, -2.0]], adam.init(w))
    np.testing.assert_allclose(got, [[1.75, 2.25], [-2 / 3, 2 / 3]], rtol=0, atol=40 * U)
    np.testing.assert_array_equal(state.moment1, [[-1.5, 1.5], [1.0, -1.0]])


def test_only_two_axes_or_more_are_centralized():
    vector, matrix = np.array([1.0, 2.0]), np.array([[[1.0, 2.0], [3.0, 6.0]]])
    adam = Adam(centralize=True, beta1=0.0)
    assert adam.step(vector, vector, adam.init(vector))[1].moment1.tolist() == [1.0, 2.0]
    assert (
        adam.step(matrix, matrix, adam.init(matrix))[1].moment1 == [[[-2.0, -1.0], [0.0, 3.0]]]
    ).all()


@pytest.mark.filterwarnings("error")
def test_the_mean_of_nothing_is_not_taken():
    empty = np.ones((3, 0))
    adam = Adam(centralize=True)
    assert adam.step(empty, empty, adam.init(empty))[0].shape == (3, 0)


def test_defaults_are_the_papers():
    adam = Adam()
    assert (adam.learning_rate, adam.beta1, adam.beta2, adam.eps) == (0.001, 0.9, 0.999, 1e-8)
    assert adam.epsilon == "outside" and adam.bias_correction
    assert adam == Adam(
        nesterov=False,
        amsgrad=False,
        weight_decay=0.0,
        decoupled=False,
        loss_scale=1.0,
        centralize=False,
    )


# --- identities -----------------------------------------------------------------------------------

floats = st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3)
betas = st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 0.99999])
options = st.fixed_dictionaries(
    {
        "beta1": betas,
        "beta2": betas,
        "eps": st.sampled_from([1e-8, 1e-2]),
        "epsilon": st.sampled_from(["outside", "hat", "inside"]),
        "bias_correction": st.booleans(),
        "nesterov": st.booleans(),
        "amsgrad": st.booleans(),
    }
)


def sequences(elements=floats, columns=3):
    """Gradients of 1 to 12 steps of a parameter of shape (3,)."""
    return st.integers(1, 12).flatmap(lambda t: arrays(np.float64, (t, columns), elements=elements))


@given(sequences())
@settings(deadline=None)
def test_its_limit_is_adagrad(gradients):
    """Section 5: beta1 = 0, 1 - beta2 = x near 0, and the learning rate alpha / sqrt(t)."""
    x, steps = 2.0**-30, len(gradients)
    adam, adagrad = Adam(0.1, 0.0, 1 - x, eps=0.0), AdaGrad(0.1, eps=0.0)
    w, state = np.zeros(3), adam.init(np.zeros(3))
    for t, gradient in enumerate(gradients, 1):
        w, state = adam.step(w, gradient, state, learning_rate=0.1 / math.sqrt(t))
    # The weights in vhat are 1/t but for a factor within 1 +- t x, whose root is within 1 +- t x;
    # no step of AdaGrad is longer than 0.1. Roundings are a millionth of that.
    np.testing.assert_allclose(
        w, follow(adagrad, np.zeros(3), gradients)[0], rtol=0, atol=0.1 * steps * steps * x
    )


@given(sequences(), options, st.integers(-60, 60))
@settings(deadline=None)
def test_the_scale_of_gradients_does_not_matter_where_epsilon_scales_too(gradients, numbers, power):
    """Section 2.1. A power of two changes no mantissa: the weights are the same to the last bit."""
    adam, scale = Adam(0.1, **numbers), 2.0**power
    eps = adam.eps * (scale**2 if adam.epsilon == "inside" else scale)
    w, state = follow(adam, np.ones(3), gradients)
    scaled, other = follow(replace(adam, eps=eps), np.ones(3), gradients * scale)
    unscaled, _ = follow(replace(adam, loss_scale=scale), np.ones(3), gradients * scale)
    np.testing.assert_array_equal(scaled, w)
    np.testing.assert_array_equal(unscaled, w)
    np.testing.assert_array_equal(other.moment2, state.moment2 * scale**2)


# --- behaviour ------------------------------------------------------------------------------------


def test_schedules_are_given_to_step():
    adam = Adam(weight_decay=0.5, decoupled=True)
    state = adam.init([1.0])
    for numbers in (
        {"learning_rate": 0.25},
        {"weight_decay": 0.125},
        {"learning_rate": 0.0},
        {"learning_rate": 0.5, "weight_decay": 0.0},
    ):
        got, _ = adam.step([1.0], [2.0], state, **numbers)
        assert got == replace(adam, **numbers).step([1.0], [2.0], state)[0]


def test_nan_and_inf_stay_in_their_element():
    adam = Adam(amsgrad=True)
    with np.errstate(invalid="ignore"):
        w, state = follow(adam, np.ones(3), [[1.0, np.nan, np.inf], [1.0, 1.0, 1.0]])
    assert np.isfinite(w).tolist() == [True, False, False]
    assert np.isnan(state.vhat[1]) and np.isinf(state.vhat[2])


def test_infinite_weights_are_no_matter_without_decay():
    """0 * inf is NaN, and would be no update at all."""
    for decoupled in (False, True):
        assert Adam(decoupled=decoupled).step(np.inf, 1.0, Adam().init(0.0))[0] == np.inf


def test_reddi_adam_goes_to_the_wrong_end_and_amsgrad_does_not():
    """Reddi et al. 2018, section 3 and figure 1: of f_t(x) = 1010 x every 101st step and -10 x
    otherwise, x in [-1, 1], the sum over 101 steps is 10 x, so the best x is -1. Within a cycle x
    still swings; at the end it is reached, and left by less than 0.1."""

    def last_cycle(adam, cycles):
        x, state, path = 0.0, adam.init(0.0), []
        for t in range(101 * cycles):
            x, state = adam.step(x, 1010.0 if t % 101 == 0 else -10.0, state)
            x = min(max(float(x), -1.0), 1.0)
            path.append(x)
        return path[-101:]

    adam = Adam(1e-2, beta1=0.9, beta2=0.99)
    to_the_wrong_end, to_the_best = (
        last_cycle(adam, 100),
        last_cycle(replace(adam, amsgrad=True), 1250),
    )
    assert max(to_the_wrong_end) == 1.0 and min(to_the_wrong_end) > 0.9
    assert min(to_the_best) == -1.0 and max(to_the_best) < -0.9
