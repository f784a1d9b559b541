"""Bounds that hold at every number of seeds, on simulated seeds."""

import math

import numpy as np
import pytest
from scipy import stats

from ms_adam.lab.sequential import Bounds, bounds, needed

ERROR, MOST, STUDIES = 0.05, 20, 4000
# The rate of false decisions among so many simulated studies stays under this with a probability of
# 1 - 1e-6 (binomial) if the true rate is the stated one.
TOLERATED = stats.binom.isf(1e-6, STUDIES, ERROR) / STUDIES


def decided(values, rule):
    """The share of studies of which some look, from the fifth seed on, says 'above 0'."""
    return np.mean([any(rule(study[:n]) > 0 for n in range(5, MOST + 1)) for study in values])


def ours(values):
    return bounds(values, ERROR, ERROR).low


QUANTILES = {n: stats.t.isf(ERROR, n - 1) / np.sqrt(n) for n in range(5, MOST + 1)}


def fixed_sample(values):
    """The mutant: a t-interval made for one look."""
    return values.mean() - QUANTILES[len(values)] * values.std(ddof=1)


def studies(effect=0.0, count=STUDIES):
    return np.random.default_rng(1).standard_normal((count, MOST)) + effect


def test_looking_after_each_seed_keeps_the_error():
    assert 0 < decided(studies(), ours) <= TOLERATED


def test_a_fixed_sample_interval_does_not():
    assert decided(studies(), fixed_sample) > TOLERATED


def test_signs_keep_the_error_without_a_distribution():
    skewed = np.random.default_rng(2).exponential(size=(STUDIES, MOST)) - np.log(2)  # median 0
    share = decided(skewed, lambda values: bounds(values, ERROR, ERROR, counts=True).low)
    assert 0 < share <= TOLERATED


def test_a_real_effect_is_found_and_bounds_shrink():
    (sure,) = studies(3.0, 1)
    assert bounds(sure, 0.0025, 0.0025).low > 0
    assert decided(studies(1.5, 200), ours) > 0.95
    widths = [np.ptp(bounds(sure[:n], ERROR, ERROR)) for n in (5, 10, 20)]
    assert widths == sorted(widths, reverse=True)


def test_equivalence_is_not_found_where_the_effect_is_the_margin():
    margin = 1.5

    def inside(values):
        low, high = bounds(values, ERROR, ERROR)
        return min(low + margin, margin - high)

    assert 0 < decided(studies(margin), inside) <= TOLERATED
    assert decided(studies(0.0, 200), inside) > 0.95


def test_both_sides_are_mirrored_and_each_has_its_error():
    values = studies(0.3, 1)[0]
    low, high = bounds(values, 0.01, 0.001)
    assert bounds(-values, 0.001, 0.01) == pytest.approx((-high, -low))
    assert values.mean() - low < high - values.mean()
    counts = np.round(values * 3)
    low, high = bounds(counts, 0.1, 0.01, counts=True)
    assert bounds(-counts, 0.01, 0.1, counts=True) == (-high, -low)


def test_the_bound_is_where_the_mixture_reaches_the_threshold():
    values, n = studies(0.4, 1)[0], MOST
    low, _ = bounds(values, ERROR, ERROR)
    t = stats.ttest_1samp(values, low).statistic

    def ratio(effects):  # of the densities of t: noncentral to central
        return stats.nct.pdf(t, n - 1, np.sqrt(n) * effects) / stats.t.pdf(t, n - 1)

    # The mixture over N(0, 10), by the quantiles of 20,001 equal shares of it.
    effects = np.sqrt(10) * stats.norm.ppf((np.arange(20_001) + 0.5) / 20_001)
    assert np.mean(ratio(effects)) == pytest.approx((1 / ERROR + 1) / 2, rel=1e-3)


def test_signs_by_hand():
    # 1.8^n reaches 1 / 0.0025 = 400 at n = 11, and 1.8^n * 0.2 at n = 13.
    infinite = [np.inf] * 10
    assert bounds(infinite, 0.0025, 0.0025).low == -np.inf
    assert bounds([*infinite, np.inf], 0.0025, 0.0025) == (np.inf, np.inf)
    assert bounds([*infinite, 2.0, 2.0, -1.0], 0.0025, 0.0025).low == -1.0
    assert bounds([*infinite, 2.0, 2.0, 2.0, -1.0], 0.0025, 0.0025).low == 2.0
    unknown = bounds([np.nan] * 20, ERROR, ERROR)
    assert unknown == (-np.inf, np.inf)


def test_the_seeds_needed_are_those_that_decide():
    above_zero = Bounds(0.0, np.inf)
    values = np.tile([0.5, 1.5, 2.5], 2)
    count = needed(values, above_zero, ERROR, ERROR)
    deviation = values.std(ddof=1)
    for n, decided in ((count, True), (count - 1, False)):
        of_n = np.random.default_rng(0).standard_normal(n)
        of_n = (of_n - of_n.mean()) / of_n.std(ddof=1) * deviation + values.mean()
        assert (bounds(of_n, ERROR, ERROR).low > 0) == decided
    assert needed(-values, above_zero, ERROR, ERROR) == count  # it will fail
    assert needed(values - values.mean(), above_zero, ERROR, ERROR) is None
    within = Bounds(-4.0, 4.0)
    assert needed(values, within, ERROR, ERROR) == needed(values, Bounds(-np.inf, 4.0), 1, ERROR)
    near = values - values.mean() + 1e-4
    # For a large n, M_n of the module is exp(t^2 / 2) / sqrt(10 n).
    count = needed(near, above_zero, ERROR, ERROR)
    limit = math.log((1 / ERROR + 1) / 2 * math.sqrt(10 * count))
    np.testing.assert_allclose(count, 2 * limit * near.var(ddof=1) / 1e-8, rtol=1e-3)
    assert needed([np.inf] * 5, above_zero, 0.0025, 0.0025) == 11
    assert needed([1, 1, -1, -1], above_zero, ERROR, ERROR, counts=True) is None
