"""CANN's arithmetic: by hand, the roundings that it is about, and Algorithm 1 beneath them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_adam.reference import Adam, CannAdamW

U = 2.0**-24  # the largest relative error of one rounding to float32


def follow(method, gradients, w=0.0):
    state, places = method.init(w), []
    for gradient in gradients:
        w, state = method.step(w, gradient, state)
        places.append(float(w))
    return places, state


def test_by_hand():
    """beta1 = 1/2, beta2 = 3/4, gradients 3 and 17, eps = 1, learning_rate = 1, decay = 1/2:
    1/2 - (3/2) / (3/2 * 2 + 1) * 2 = -1/4, and with m = 37/4, c1 = 3/4, sqrt(vhat) = 13:
    -1/8 - (37/4) / 14 * 4/3 = -169/168, as in test_reference_adam."""
    places, state = follow(CannAdamW(1.0, 0.5, 0.75, 1.0, weight_decay=0.5), [3.0, 17.0], 1.0)
    assert places[0] == -1 / 4 and state.step == 2 and state.moment1 == 37 / 4
    assert abs(places[1] + 169 / 168) <= 12 * U  # roundings of numbers of size 1 and below


def test_scalars_are_float32():
    """A beta is rounded, and 1 - beta is exact then: in float64 these would be 0.1 and 0.001."""
    _, state = follow(CannAdamW(), [1.0])
    assert state.moment1 == 1 - float(np.float32(0.9))
    assert state.moment2 == 1 - float(np.float32(0.999))
    # half a unit of 0.999^2 is up to 1.5e-5 of 1 - 0.999^2 = 0.002, and half of that of its root
    numbers = {"beta1": 0.0, "learning_rate": 1.0}
    (_, got), (_, wanted) = (follow(a(**numbers), [1.0, 1.0])[0] for a in (CannAdamW, Adam))
    assert 16 * U < abs(got - wanted) < 8e-6


@pytest.mark.parametrize("dtype, digits, up", [("bfloat16", 7, True), ("float16", 10, False)])
def test_moments_are_rounded_to_the_dtype(dtype, digits, up):
    """A moment of 1, the next number as gradient and beta1 = 1/2: the middle of two neighbours."""
    adam, following = CannAdamW(beta1=0.5, dtype=dtype), 1 + 2.0**-digits
    state = adam.init(0.0)._replace(moment1=np.float64(1.0))
    _, state = adam.step(0.0, following, state)
    assert state.moment1 == (following if up else 1.0)


def test_the_update_takes_unrounded_moments():
    """In float16 the square of 1e-4 is lost, but not before the first step."""
    places, state = follow(CannAdamW(dtype="float16"), [1e-4, 1e-4])
    assert state.moment2 == 0
    # v is 1e-11 in both steps, and in the second 1 - beta2^2 divides it: sqrt(2) times the step
    assert places[0] == pytest.approx(-1e-3, rel=1e-3)
    assert places[1] - places[0] == pytest.approx(-1e-3 * 2**0.5, rel=2e-3)


@given(
    st.lists(st.floats(0.01, 100.0), min_size=1, max_size=20),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
)
@settings(deadline=None)
def test_it_is_adamw(gradients, amsgrad, maximize, decay):
    """But for roundings. Moments of one sign are off by 4U a step, and by 3e-6 or 50U because
    1 - float32(0.99) is; 1 - beta2^t >= 0.01 by 50U of its root; the rest of a step by 10U. A step
    rounds the weight twice, which stays below 4."""
    gradients = [float(np.float32(g)) for g in gradients]
    numbers = (0.01, 0.9, 0.99, 1e-8)
    options = {"amsgrad": amsgrad, "maximize": maximize, "weight_decay": decay}
    got, state = follow(CannAdamW(*numbers, **options), gradients, 1.0)
    wanted, other = follow(Adam(*numbers, **options, decoupled=True), gradients, 1.0)
    of_moments = (4 * len(gradients) + 50) * U
    way = np.abs(np.diff([1.0, *wanted])).sum()
    assert abs(got[-1] - wanted[-1]) <= (of_moments + 60 * U) * way + 8 * len(gradients) * U
    for name in ("moment1", "moment2") + ("vhat",) * amsgrad:
        np.testing.assert_allclose(getattr(state, name), getattr(other, name), rtol=of_moments)
