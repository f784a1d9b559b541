"""The functions of the plane: values, minima, and gradients against a second way to take them."""

import dataclasses

import numpy as np
import pytest

from ms_adam.lab.problems.functions import FUNCTIONS, Function

POINTS = [(0.3, -1.7), (-2.5, 0.125), (1.0, 1.0), (3.5, 2.75), (-1e-3, 4.0), (0.0, 0.0)]
# What f is, written a second time.
FORMULAS = {
    "sphere": lambda x, y: x * x / 5 + 2 * y * y,
    "valley": lambda x, y: x * x / 20 + y * y,
    "cubic": lambda x, y: x * x + y * y * (1 + y) + x * y,
    "saddle": lambda x, y: (x - y) * (x + y),
    "beale": lambda x, y: sum(
        (c - x * (1 - y**k)) ** 2 for c, k in ((1.5, 1), (2.25, 2), (2.625, 3))
    ),
    "rosenbrock": lambda x, y: (x - 1) ** 2 + (10 * y - 10 * x * x) ** 2,
    "rastrigin": lambda x, y: sum(10 + z * z - 10 * np.cos(2 * np.pi * z) for z in (x, y)),
    "himmelblau": lambda x, y: (x * x + y - 11) ** 2 + (y * y + x - 7) ** 2,
}


def complex_gradient(f, x, y):
    """f(x + ih, y) = f + ih df/dx + O(h^2): no difference is taken, so h can be 1e-30."""
    return np.array([f(x + 1e-30j, y).imag, f(x, y + 1e-30j).imag]) / 1e-30


def distance(function, name, x, y):
    """The error of the gradient, in units of what 16 roundings of its largest term can make.

    Every gradient here is a sum of at most 6 terms, each of at most 10 operations, of which few
    are inexact together; the largest term is bounded by evaluating on a circle of |x|, |y|.
    """
    corners = np.array([(sx * abs(x), sy * abs(y)) for sx in (-1, 1) for sy in (-1, 1)]).T
    terms = np.abs(function.gradient(*corners)).max()
    wanted = complex_gradient(FORMULAS[name], x, y)
    # 30: the constants of Beale and Himmelblau, which are there even at (0, 0), times 4 |x|
    allowed = 16 * 2.0**-53 * max(terms, 30 * (1 + abs(x) + abs(y)), 1)
    return np.abs(function.gradient(x, y) - wanted).max() / allowed


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("x, y", POINTS)
def test_value_and_gradient(name, x, y):
    function = FUNCTIONS[name]
    value = FORMULAS[name](x, y)
    assert float(function.value(x, y)) == pytest.approx(value, rel=1e-13, abs=1e-12)
    assert distance(function, name, x, y) <= 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_gradient_is_seen(name):
    """One part in 10^9 off is already far over the limit."""
    right = FUNCTIONS[name]
    wrong = dataclasses.replace(right, slopes=lambda x, y: right.gradient(x, y) * (1 + 1e-9))
    assert distance(wrong, name, 3.5, 2.75) > 1


@pytest.mark.parametrize("name", [name for name, f in FUNCTIONS.items() if f.minima])
def test_minima(name):
    """The gradient is 0 there but for the rounding of the place, and nothing near is lower."""
    function = FUNCTIONS[name]
    assert function.least == 0
    for x, y in function.minima:
        # the largest curvature here is Rosenbrock's, 1002
        assert np.abs(function.gradient(x, y)).max() <= 1002 * 8 * 2.0**-53
        around = 0.1 * np.exp(1j * np.linspace(0, 2 * np.pi, 64))
        assert function.value(x + around.real, y + around.imag).min() > 1e-4


def test_the_two_without_a_least_value():
    assert FUNCTIONS["cubic"].least is None and FUNCTIONS["saddle"].least is None
    assert FUNCTIONS["cubic"].value(0.0, -1e3) < -9e8 and FUNCTIONS["saddle"].value(0, 1e3) < -9e5
    for x, y in ((0.0, 0.0), (0.25, -0.5)):  # the critical points that the comment names
        assert not FUNCTIONS["cubic"].gradient(x, y).any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_give_what_numbers_give(name):
    function, (x, y) = FUNCTIONS[name], np.array(POINTS).T
    singly = np.array([function.gradient(*point) for point in POINTS]).T
    assert singly.shape == (2, len(POINTS))
    # NumPy may take another sine, and another power, for arrays than for numbers: the last digits
    np.testing.assert_allclose(function.gradient(x, y), singly, rtol=1e-14, atol=1e-13)
    values = [function.value(*map(np.float64, point)) for point in POINTS]
    np.testing.assert_allclose(function.value(x, y), values, rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("x, y", POINTS)
def test_differences_take_the_place_of_a_missing_gradient(name, x, y):
    """Their error: h^2 |f'''| / 6 and 2 u |f| / h, with h = 2^-18 (1 + |x|) at most.

    |f'''| is largest for Rosenbrock, 2400 |x|, for Rastrigin 40 pi^3 * 2 = 2481, and below 4e4
    at these points for Beale (y^4 and x y^3 with factors to 60).
    """
    exact = FUNCTIONS[name]
    differences = dataclasses.replace(exact, slopes=None)
    size = max(1, abs(x), abs(y))
    h = 2.0**-18 * size
    largest = np.abs(exact.value(np.float64(x), np.float64(y))) + 100
    allowed = h**2 * 4e4 / 6 + 16 * 2.0**-53 * largest / 2.0**-18
    assert np.abs(differences.gradient(x, y) - exact.gradient(x, y)).max() <= allowed


def test_a_constant_slope_gets_the_shape_of_its_place():
    plane = Function("x", lambda x, y: x, lambda x, y: (1.0, 0.0))
    assert plane.gradient(np.zeros(3), np.zeros(3)).tolist() == [[1, 1, 1], [0, 0, 0]]
