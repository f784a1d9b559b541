"""The number of updates, from counters and from beta powers as they are really formed."""

import functools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_adam import counts
from ms_adam.counts import power_range, updates_made

LAST = 200_000
BETAS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999, 0.99999)


@functools.cache
def multiplied(beta):
    """[power after 0, 1, ... LAST steps], multiplied up in float32 as `nn.Adam` does."""
    with np.errstate(under="ignore"):
        return np.multiply.accumulate(np.append(np.float32(1), np.full(LAST, beta, np.float32)))


@functools.cache
def rounded(beta):
    """The same, each computed in float64 and rounded once, as ours are."""
    with np.errstate(under="ignore"):
        return (np.float64(beta) ** np.arange(LAST + 1)).astype(np.float32)


NOTHING = [  # powers and betas
    ((0.0, 0.0), (0.0, 0.0)),
    ((1.0, 1.0), (0.0, 0.0)),
    ((np.nan, np.nan), (0.9, 0.999)),
    ((2.0, -1.0), (0.9, 0.999)),
    ((np.inf, np.nan), (0.9, 0.999)),
]
FORMED = pytest.mark.parametrize("powers", [multiplied, rounded])


@FORMED
@pytest.mark.parametrize("beta", BETAS)
def test_every_power_up_to_200_000_steps_fits_its_own_count(powers, beta):
    for n, power in enumerate(powers(beta)):
        if n < 2000 or n % 97 == 0:
            assert power_range(power, beta).fits(n), n


@FORMED
@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(1, LAST),
    beta1=st.sampled_from(BETAS),
    beta2=st.sampled_from(BETAS),
    stale=st.integers(0, 3),
)
def test_global_step_where_the_powers_agree_with_it(powers, n, beta1, beta2, stale):
    """A state of `nn.Adam` that was loaded: the update count is that of a fresh optimizer."""
    if stale < n - 1:
        assert updates_made(stale, n, powers(beta1)[n], powers(beta2)[n], beta1, beta2) == n


@FORMED
@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(0, LAST),
    every=st.integers(1, 16),
    beta1=st.sampled_from(BETAS),
    beta2=st.sampled_from(BETAS),
)
def test_update_count_where_the_powers_agree_with_it(powers, n, every, beta1, beta2):
    assert updates_made(n, n * every, powers(beta1)[n], powers(beta2)[n], beta1, beta2) == n


@FORMED
@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(1, LAST),
    every=st.integers(2, 16),
    beta1=st.sampled_from((0.0, *BETAS)),
    beta2=st.sampled_from(BETAS),
    count=st.sampled_from((None, 0)),
)
def test_the_powers_where_no_counter_agrees(powers, n, every, beta1, beta2, count):
    """A schedule that runs ahead, in an optimizer without a count of updates of its own."""
    power1 = powers(beta1)[n] if beta1 else 0.0
    made = updates_made(count, n * every, power1, powers(beta2)[n], beta1, beta2)
    usable = [beta for beta in (beta1, beta2) if beta and powers(beta)[n] >= 2.0**-126]
    if usable:  # the drift of the better one
        assert abs(made - n) <= 0.5 + 2.0**-23 / -math.log(min(usable)) * n
    else:
        assert made == n * every  # fits what is left: both powers underflowed
    if powers is multiplied and usable and n < 1000:
        assert made == n


def test_a_logarithm_alone_would_miss_the_count():
    """So the slack has to grow with the count, and the product has to be repeated."""
    n = 80_000
    power = multiplied(0.999)[n]
    assert abs(math.log(power) / math.log(0.999) - n) > 0.5
    assert updates_made(None, 2 * n, 0.0, power, 0.9, 0.999) == n
    exact = rounded(0.999)[n]
    assert updates_made(None, 2 * n, 0.0, exact, 0.9, 0.999) == n


@FORMED
@pytest.mark.parametrize("beta, last", [(0.9, 800), (0.999, 2000)])
def test_the_next_count_does_not_fit(powers, beta, last):
    for n in range(1, last):
        assert not power_range(powers(beta)[n], beta).fits(n + 1)
        assert not power_range(powers(beta)[n], beta).fits(n - 1)


def test_the_numbers_of_the_docstring():
    for beta, drift, least in ((0.999, "1.2e-04", 87_282), (0.9, "1.1e-06", 829)):
        assert f"{2.0**-23 / -math.log(beta):.1e}" == drift
        assert math.ceil(power_range(0.0, beta).least) == least
        assert multiplied(beta)[least - 2] >= 2.0**-126
    stuck = multiplied(0.999)
    assert 0 < stuck[LAST] == stuck[LAST - 50_000] < 2.0**-126  # stops changing


LAST1, LAST2, OF_100 = multiplied(0.9)[LAST], multiplied(0.999)[LAST], multiplied(0.999)[100]
# update_count, global_step, the powers, the betas, and the updates made
ANSWERS = [
    # a power that underflowed refutes a small count; 87,282 is the least that fits
    (0, 200_000, 0.0, 0.0, 0.9, 0.999, 200_000),
    (0, 200_000, LAST1, LAST2, 0.9, 0.999, 200_000),
    (0, 0, 0.0, 0.0, 0.9, 0.999, 87_282),
    (5, 0, 0.0, 0.0, 0.9, 0.999, 87_282),
    # powers that tell nothing
    *((7, 12, *powers, *betas, 7) for powers, betas in NOTHING),
    *((None, 12, *powers, *betas, 12) for powers, betas in NOTHING),
    *((None, None, *powers, *betas, 0) for powers, betas in NOTHING),
    # one beta of zero leaves the other
    (0, 12, 0.0, 0.999**6, 0.0, 0.999, 6),
    (0, 12, 0.9**6, 0.0, 0.9, 0.0, 6),
    # a count of -1 is none
    (0, -1, 1.0, 1.0, 0.9, 0.999, 0),
    (None, -1, 1.0, 1.0, 0.9, 0.999, 0),
    (-1, -1, np.nan, np.nan, 0.9, 0.999, 0),
    # a power that was never written is left out
    (0, 12, 0.9**6, 1.0, 0.9, 0.999, 6),
    (0, 6, 1.0, 0.999**6, 0.9, 0.999, 6),
    # a beta that float32 rounds to 1: its power never changes, and contradicts nothing
    (5, 12, 1.0, 0.999**5, 1 - 1e-8, 0.999, 5),
    (0, 12, 0.9**6, 1.0, 0.9, 1 - 1e-8, 6),
    # 100 updates with (0.9, 0.999), read by an optimizer with other rates
    *(
        (*counters, multiplied(0.9)[100], OF_100, *betas, 100)
        for counters in ((100, 100), (0, 100), (100, 400))
        for betas in ((0.9, 0.95), (0.8, 0.999), (0.8, 0.95), (0.5, 0.98))
    ),
    (7, 100, multiplied(0.9)[100], OF_100, 0.9, 0.95, 100),  # which fits beta1's power
    (0, 0, multiplied(0.9)[100], OF_100, 0.9, 0.95, 100),  # the power of the smaller beta
    # 2,000 updates: beta1's power underflowed, beta2's says 39
    (0, 2000, multiplied(0.9)[2000], multiplied(0.999)[2000], 0.9, 0.95, 2000),
    # numbers of NumPy
    (
        np.int32(0),
        np.float32(12),
        np.float32(0.9**6),
        np.float32(0.999**6),
        np.float64(0.9),
        0.999,
        6,
    ),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_updates_made(answer):
    *given, expected = answer
    made = updates_made(*given)
    assert made == expected and type(made) is int


def test_a_power_whose_drift_is_as_large_as_its_count():
    beta = 1 - 2.0**-24
    assert updates_made(0, 1000, multiplied(beta)[1000], 0.0, beta, 0.0) in (0, 1000)


def test_a_product_too_long_to_repeat_is_estimated(monkeypatch):
    n = 150_000
    power = multiplied(0.9999)[n]
    assert updates_made(None, 2 * n, 0.0, power, 0.9, 0.9999) == n
    monkeypatch.setattr(counts, "_MOST_REPEATED", 1000)
    made = updates_made(None, 2 * n, 0.0, power, 0.9, 0.9999)
    assert made != n and power_range(power, 0.9999).fits(made)


def test_imports_no_mindspore():
    program = (
        "import sys; import ms_adam.counts; "
        "assert not [name for name in sys.modules if name.startswith('mindspore')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
