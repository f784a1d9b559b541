"""RMSProp by hand and centered."""

import numpy as np
import pytest

from ms_adam.reference import RMSProp

# beta = 3/4 and the gradients 6, 2:  s = 9, 27/4 + 1 = 31/4;  n = 3/2, 9/8 + 1/2 = 13/8
BY_HAND = [
    (dict(eps=0.0), 1 - 6 / 3 - 2 / 7.75**0.5),
    (dict(eps=1.0), 1 - 6 / 4 - 2 / (7.75**0.5 + 1)),
    (dict(eps=7.0, epsilon="inside"), 1 - 6 / 4 - 2 / 14.75**0.5),
    (dict(eps=0.0, initial_mean_square=4.0), 1 - 6 / 12**0.5 - 2 / 10**0.5),
    (dict(eps=0.0, centered=True), 1 - 6 / 6.75**0.5 - 2 / (7.75 - 2.640625) ** 0.5),
    (
        dict(eps=1.0, epsilon="inside", centered=True),
        1 - 6 / 7.75**0.5 - 2 / (8.75 - 2.640625) ** 0.5,
    ),
]


@pytest.mark.parametrize("options, end", BY_HAND, ids=str)
def test_by_hand(options, end):
    rmsprop = RMSProp(1.0, 0.75, **options)
    w, state = rmsprop.step(1.0, 6.0, rmsprop.init(1.0))
    w, state = rmsprop.step(w, 2.0, state)
    assert abs(w - end) <= 20 * 2.0**-53  # 10 roundings of numbers up to 2
    assert state.mean == (1.625 if rmsprop.centered else None)


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
