"""Bounds on a paired effect that hold at every number of seeds at once.

A study that adds seeds until a claim is decided looks at its numbers many times. A t-interval, made
for one look, then excludes the truth far more often than it says. These bounds are confidence
sequences: with the stated probability none of them, at any number of seeds, is ever wrong. So one
may look after each seed and stop at will.

Bounds on the mean of normal values invert the t-test of a scale-free mixture. With n values, t
their t statistic against a supposed mean, and the effect (mean / standard deviation) drawn from
N(0, g), the likelihood ratio of the t statistics to an effect of 0 is

    M_n = (1 + n g)^(-1/2) * ((1 + t^2 / (n - 1)) / (1 + t^2 / ((n - 1) (1 + n g))))^(n / 2)

a test martingale whatever the standard deviation: it ever reaches 1 / alpha with probability alpha
at most (Ville's inequality). Sources: Lai 1976, "On confidence sequences"; Wang & Ramdas 2023,
"Anytime-valid t-tests and confidence sequences", arXiv 2310.03722. For a bound on one side the
mixture is over positive effects only, M+ = 2 M - M-. For t >= 0 the ratio M- over the negative ones
is at most 1, so M+ >= 2 M - 1, and M_n >= (1 / alpha + 1) / 2 suffices.

Bounds on the median bet on the sign of each value against an even chance, which needs no
distribution: the product over the values of 1 + 0.8 on one side and 1 - 0.8 on the other is a test
martingale too. Source: Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by
betting". They serve where values are infinite (a run diverged), unknown, equal or counts. A normal
value is none of these, so values that hold one are judged by the median from the first on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

# Variance of the effect in the mixture. With 10, five values of one sign suffice for an effect of
# 4.5 at alpha = 0.0025, and twenty for one of 1.1; with 1, five never suffice.
_EFFECT_VARIANCE = 10.0
_BET = 0.8  # the best one if 9 of 10 signs agree
_MOST = 10**12  # seeds that `needed` looks ahead: more than anybody will run


class Bounds(NamedTuple):
    """What the centre of the values is above and below."""

    low: float
    high: float


def bounds(values: Sequence[float], below: float, above: float, counts: bool = False) -> Bounds:
    """Bounds the mean of paired values, or their median (see the module).

    Args:
        values: One for each seed, infinite or NaN where a run diverged.
        below: The probability that ``low`` is above the truth at any number of seeds.
        above: The probability that ``high`` is below it.
        counts: Whether the values are counts, for which no normal distribution can be assumed.
    """
    array = np.asarray(values, float)
    if counts or _needs_signs(array):
        down = np.sort(np.where(np.isnan(array), -np.inf, array))
        up = np.sort(np.where(np.isnan(array), np.inf, array))
        return Bounds(_signs_below(down, below), -_signs_below(-up[::-1], above))
    deviation, mean = float(array.std(ddof=1)), float(array.mean())
    low, high = (mean + sign * _radius(len(array), deviation, alpha)
                 for sign, alpha in ((-1, below), (1, above)))  # fmt: skip
    return Bounds(low, high)


def _needs_signs(array: np.ndarray) -> bool:
    return len(array) < 2 or not np.isfinite(array).all() or bool(np.ptp(array) == 0)


def _radius(count: int, deviation: float, alpha: float) -> float:
    """The distance from the mean at which M_n reaches (1 / alpha + 1) / 2."""
    wide = 1 + count * _EFFECT_VARIANCE
    power = ((1 / alpha + 1) / 2 * math.sqrt(wide)) ** (2 / count)
    if power >= wide:  # M_n has this limit for a large t
        return math.inf
    squared = (power - 1) / (1 - power / wide)  # t^2 / (n - 1)
    return deviation * math.sqrt(squared * (count - 1) / count)


def _signs_below(ascending: np.ndarray, alpha: float) -> float:
    """The largest value that the median is not below, at this error."""
    found = -math.inf
    for lost, value in enumerate(ascending):  # so many values are not above a lesser supposition
        won = len(ascending) - lost
        if won * math.log1p(_BET) + lost * math.log1p(-_BET) < -math.log(alpha):
            break
        found = float(value)
    return found


def needed(
    values: Sequence[float], permitted: Bounds, below: float, above: float, counts: bool = False
) -> Optional[int]:
    """Estimates how many seeds decide whether the centre is permitted, if it stays as it is.

    Returns:
        The number; None if the centre lies at a bound of what is permitted, or so near to one that
        a trillion seeds would not do.
    """
    array = np.asarray(values, float)
    if counts or _needs_signs(array):
        sides = []  # of each side: the signs needed to win it, and to lose it
        if math.isfinite(permitted.low):
            won, lost = np.mean(array > permitted.low), np.mean(array < permitted.low)
            sides.append((_signs_needed(won, below), _signs_needed(lost, above)))
        if math.isfinite(permitted.high):
            won, lost = np.mean(array < permitted.high), np.mean(array > permitted.high)
            sides.append((_signs_needed(won, above), _signs_needed(lost, below)))
        inside, outside = max(won for won, _ in sides), min(lost for _, lost in sides)
        count = min(inside, outside)
        return int(count) if count <= _MOST else None
    mean, deviation = float(array.mean()), float(array.std(ddof=1))
    inside = permitted.low < mean < permitted.high
    ways = [
        (distance, alpha)
        for distance, alpha in (
            (mean - permitted.low, below if inside else above),
            (permitted.high - mean, above if inside else below),
        )
        if math.isfinite(distance) and (inside or distance < 0)
    ]

    def decides(count: int) -> bool:
        return all(_radius(count, deviation, alpha) < abs(distance) for distance, alpha in ways)

    low, high = len(array), _MOST
    if not ways or not decides(high):
        return None
    while low < high:  # more seeds never widen the bounds
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle + 1, high)
    return low


def _signs_needed(share: float, alpha: float) -> float:
    growth = share * math.log1p(_BET) + (1 - share) * math.log1p(-_BET)
    return math.ceil(-math.log(alpha) / growth) if growth > 0 else math.inf
