"""Distances of arrays, and bounds on what rounding does to a path."""

import numpy as np
import pytest

from ms_adam.lab.measure import (
    METRICS,
    Arithmetic,
    clipped,
    coarser,
    distance,
    largest,
    memory,
    nearest_to_bound,
    path_bounds,
    relative_distance,
    share_of_bound,
    spacing,
    step_bounds,
)
from ms_adam.reference import Adam, AdaMax


def measured(a, b, dtype="float32", size=None):
    return dict(zip(METRICS, distance(np.array(a), np.array(b), dtype, size)))


def test_distance_by_hand():
    found = measured([1.0, 2.0, -4.0, 0.0], [1.0, 2.003, -4.04, 0.0])
    assert found["absolute"] == pytest.approx(0.04)
    assert found["relative"] == pytest.approx(0.04 / 4.04)
    # 4.04 lies in [4, 8), where float32 has a spacing of 2^-21
    assert found["ulp"] == pytest.approx(0.04 * 2**21)
    assert found["within_0_1_percent"] == 0.5  # 0.003 of 2.003 is 0.15%, 0.04 of 4.04 is 1%
    assert found["within_0_5_percent"] == 0.75
    assert found["different"] == 2
    a, b = np.array([1.0, 2.0, -4.0, 0.0]), np.array([1.0, 2.003, -4.04, 0.0])
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert found["cosine"] == pytest.approx(cosine, abs=1e-15)


def test_distance_takes_the_size_that_it_is_given():
    assert measured([1.0], [1.5], size=2.0)["relative"] == 0.25
    assert measured([1.0], [1.5], size=0.0)["relative"] == np.inf  # moved, where there is no way
    assert measured([1.0], [1.0], size=0.0)["relative"] == 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_spacing_is_that_of_numpy(dtype):
    values = np.array([0.0, 1e-7, 0.3, 1.0, 1.5, 2.0, 300.0], dtype)
    np.testing.assert_array_equal(spacing(values.astype(np.float64), dtype), np.spacing(values))


def test_spacing_of_bfloat16():
    # 8 bits of precision: 1 + 2^-7 is the next number after 1
    np.testing.assert_array_equal(spacing(np.array([1.0, 2.0]), "bfloat16"), [2.0**-7, 2.0**-6])


def test_neighbours_are_one_unit_apart():
    a = np.array([1.0, -3.0, 1e-20], np.float32)
    assert measured(a, np.nextafter(a, np.float32(np.inf)))["ulp"] == 1
    assert coarser("float32", "bfloat16") == coarser("bfloat16", "float16") == "bfloat16"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(value):
    same = measured([1.0, value], [1.0, value])
    assert same["different"] == same["relative"] == 0
    other = measured([1.0, value], [1.0, 2.0])
    assert other["absolute"] == other["relative"] == other["ulp"] == np.inf
    assert other["different"] == 1 and other["within_0_5_percent"] == 0.5


def test_zeros_of_two_signs_differ_in_a_bit_and_by_nothing():
    found = measured([0.0, 1.0], [-0.0, 1.0])
    assert found["different"] == 1 and found["relative"] == found["ulp"] == 0
    assert measured([0.0], [-0.0])["relative"] == 0
    assert measured([np.nan], [-np.nan])["different"] == 0


def test_the_largest_element_is_a_finite_one():
    assert largest(np.float32([[1, np.nan], [-3, -np.inf]])) == 3.0
    assert largest(np.array([np.nan])) == largest(np.ones(0)) == 0.0
    assert largest(np.float64(-2)) == 2.0


def test_infinities_of_two_signs_differ():
    assert measured([np.inf], [-np.inf])["relative"] == np.inf


def test_cosine_of_extremes():
    assert measured([0.0, 0.0], [0.0, 1.0])["cosine"] == 0
    assert measured([1e300, 0.0], [0.0, 1e300], "float64")["cosine"] == 0  # squares overflow
    assert measured([1e-300, 0.0], [-2e-300, 0.0], "float64")["cosine"] == -1
    assert measured([], [])["relative"] == 0


def test_relative_distance_is_over_the_way():
    assert (
        relative_distance(np.array([1.5, 2.0]), np.array([1.0, 3.0]), np.array([1.0, 1.0])) == 0.5
    )
    assert relative_distance(np.ones(2), np.ones(2), np.ones(2)) == 0.0
    assert np.isnan(relative_distance(np.array([np.nan]), np.ones(1)))


def test_share_of_bound():
    one, bound = np.ones(2), np.full(2, 0.5)
    assert share_of_bound(one + 0.25, one, bound) == 0.5
    assert share_of_bound(np.array([1.0, np.nan]), one, bound) == np.inf
    assert share_of_bound(one + 9, one, np.array([np.inf, np.inf])) == 0.0
    assert share_of_bound(np.ones(0), np.ones(0), np.ones(0)) == 0.0
    with pytest.raises(AssertionError, match=r"shape \(1,\)"):
        share_of_bound(np.ones(1), one, bound)


def test_nearest_to_bound():
    wanted, bound = np.array([1.0, 1.0, np.nan]), np.array([0.5, 0.1, 0.0])
    assert nearest_to_bound(wanted + [0.25, 0.2, 0.0], wanted, bound) == pytest.approx((0.2, 0.1))
    assert nearest_to_bound(wanted, wanted, 0.0)[0] == 0.0  # NaN equals NaN
    assert nearest_to_bound(np.array([np.inf]), np.ones(1), np.ones(1)) == (np.inf, 1.0)
    assert nearest_to_bound(np.ones(1) + 9, np.ones(1), np.array([np.inf]))[0] == 0.0
    assert nearest_to_bound(np.ones(0), np.ones(0), np.ones(0)) == (0.0, 0.0)
    assert nearest_to_bound(np.float64(3.0), np.float64(1.0), 1.0) == (2.0, 1.0)


@pytest.mark.parametrize(
    "method", [Adam(), Adam(amsgrad=True, beta2=0.5), Adam(nesterov=True), AdaMax()]
)
def test_bounds_that_run_on_hold_where_no_state_is_seen(method):
    """float32 moments of 40 steps: each step starts from the exact state and the bounds so far."""
    random = np.random.default_rng(1)
    exact = seen = method.init(np.zeros(16))
    arithmetic, errors, loosest = Arithmetic("float32", method.beta1, method.beta2), (0.0,) * 3, 0.0
    w = np.zeros(16)
    for gradient in random.standard_normal((40, 16)) * random.choice([1e-3, 1.0], (40, 1)):
        wanted, after = method.step(w, gradient, exact)
        got, seen = method.step(w, gradient, seen)
        fields = ("moment1", "moment2", "vhat")
        rounded = {name: getattr(seen, name) for name in fields}
        seen = seen._replace(
            **{n: x.astype(np.float32).astype(float) for n, x in rounded.items() if x is not None}
        )
        first, second, weight = step_bounds(
            method,
            gradient,
            exact,
            after,
            w,
            wanted,
            dtype="float32",
            arithmetic=arithmetic,
            state_error=errors,
        )
        assert np.all(np.abs(seen.moment1 - after.moment1) <= first)
        assert np.all(np.abs(seen.moment2 - after.moment2) <= second)
        assert np.all(np.abs(got.astype(np.float32) - wanted) <= weight)
        errors, exact, w = (first, second, np.maximum(second, errors[2])), after, wanted
        loosest = max(loosest, np.max(second / after.moment2))
    # 10 roundings of each of 40 steps, of gradients that are up to twice a moment's root.
    assert loosest < 10 * 40 * 2 * 2**-24


def test_clipping_by_hand():
    gradients, errors = [np.array([3.0]), np.array([4.0])], [np.array([0.03]), np.array([0.04])]
    found, bounds = clipped(gradients, 1.0, errors, "float32")
    np.testing.assert_allclose(found, [[0.6], [0.8]], rtol=1e-15)
    # The error of the norm, a hundredth of it, and 2 + 8 roundings.
    relative = 0.01 + 10 * 2.0**-24
    np.testing.assert_allclose(bounds, [[0.03 + 0.6 * relative], [0.04 + 0.8 * relative]])


def test_a_path_of_moving_averages_is_within_its_bound_and_a_wrong_rate_is_not():
    """w - 0.1 m with m = 0.9 m + 0.1 g: of m three roundings a step, then a product."""
    random = np.random.default_rng(0)
    gradients = random.standard_normal((50, 20))

    def path(dtype, beta=0.9):
        w, m, places = np.ones(20, dtype), np.zeros(20, dtype), []
        beta = dtype(beta)
        for g in gradients.astype(np.float32).astype(dtype):
            m = beta * m + (dtype(1) - beta) * g
            w = w - dtype(0.1) * m
            places.append(w.astype(np.float64))
        return np.array(places)

    exact = path(np.float64)
    changes = np.maximum.accumulate(np.abs(np.diff(exact, axis=0, prepend=1.0)).max(axis=1))
    weights = np.maximum.accumulate(np.abs(exact).max(axis=1))
    # 1 - beta in float32 is off by 2^-24 / 0.1
    roundings = np.array([3 + (4 + 10) * memory(0.9, t) for t in range(1, 51)])
    bounds = path_bounds(weights, changes, roundings)
    assert np.all(np.abs(path(np.float32) - exact).max(axis=1) <= bounds)
    assert np.any(np.abs(path(np.float64, 0.901) - exact).max(axis=1) > bounds)


def test_memory_is_a_geometric_sum():
    assert memory(0.5, 3) == 1 + 0.5 + 0.25
    assert memory(0.9) == pytest.approx(10)
