"""Gradient descent on a quadratic has a closed form, and a published end."""

import numpy as np

from ms_adam.reference import SGD


def test_quadratic():
    """f(x) = 0.1 x1^2 + 2 x2^2 from (-5, -2): x_t = (1 - rate * curvature)^t x_0. Zhang et al.,
    Dive into Deep Learning, section 12.6, print the end of 20 steps at the rate 0.4."""
    curvature, x = np.array([0.2, 4.0]), np.array([-5.0, -2.0])
    sgd = SGD(0.4)
    state = sgd.init(x)
    for _ in range(20):
        x, state = sgd.step(x, curvature * x, state)
    # 4 roundings a step; the second factor, 1 - 1.6, triples their share
    np.testing.assert_allclose(x, [-5 * 0.92**20, -2 * 0.6**20], rtol=20 * 12 * 2.0**-53)
    assert x.round(6).tolist() == [-0.943467, -7.3e-05]
    assert state.step == 20


def test_a_rate_for_one_step():
    assert SGD(0.5).step(1.0, 2.0, SGD().init(1.0), learning_rate=0.25)[0] == 0.5
