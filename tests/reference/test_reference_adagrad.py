"""AdaGrad by hand and by its closed form."""

import numpy as np
import pytest

from ms_adam.reference import AdaGrad


def follow(adagrad, w, gradients):
    state = adagrad.init(w)
    for gradient in gradients:
        w, state = adagrad.step(w, gradient, state)
    return w, state


@pytest.mark.parametrize(
    "options, end",
    [
        (dict(eps=1.0), 1 - 3 / 4 - 4 / 6),  # sqrt(9) + 1, sqrt(25) + 1
        (dict(eps=0.0, initial_accumulator=0.0), 1 - 3 / 3 - 4 / 5),  # sqrt(9), sqrt(25)
        (dict(eps=0.0, initial_accumulator=16.0), 1 - 3 / 5 - 4 / 41**0.5),
        (dict(eps=16.0, epsilon="inside"), 1 - 3 / 5 - 4 / 41**0.5),
    ],
)
def test_by_hand(options, end):
    w, state = follow(AdaGrad(1.0, **options), 1.0, [3.0, 4.0])
    # a sum, a root, a quotient and a difference in each of two steps, of w up to 1; `end` the same
    assert abs(w - end) <= 16 * 2.0**-53
    assert state.accumulator == 25.0 + options.get("initial_accumulator", 0.0)


def test_equal_gradients_give_one_over_root_t():
    w, _ = follow(AdaGrad(0.5, eps=0.0), np.zeros(2), [[1e-3, -1e3]] * 100)
    total = 0.5 * sum(t**-0.5 for t in range(1, 101))
    # s adds up to 100 squares, 100 roundings that the root halves; w and the total add up as many
    # terms, 200; 10 more for the root, the quotient, the product and t**-0.5
    np.testing.assert_allclose(w, [-total, total], rtol=260 * 2.0**-53)
