"""Finds the number of updates of a loaded state, from its counters and its beta powers.

An optimizer's state can count updates in three places, which need not agree. `global_step` drives
the schedules, and a trainer that accumulates gradients may advance it on every call. `update_count`
is ours; a checkpoint of another optimizer lacks it. `beta1_power` and `beta2_power` are multiplied
by the decay rates once per update. `load_state` asks here which of them to believe. A step cannot
wait for such an answer: `scalars.UpdateCount` decides in the graph, by equality with its own power.
"""

import math
from typing import NamedTuple, Optional, Sequence

import numpy as np

_ROUNDING = 2.0**-24  # largest relative error of one rounding to float32
_SMALLEST_NORMAL = 2.0**-126  # of float32
_MOST_REPEATED = 20_000_000  # float32 products held at once: 80 MB


def updates_made(
    update_count: Optional[int],
    global_step: Optional[int],
    beta1_power: float,
    beta2_power: float,
    beta1: float,
    beta2: float,
) -> int:
    r"""Returns the number of updates that a state's counters and beta powers agree on.

    A power p fits a count n if its own estimate t = log(p) / log(beta) is within

    .. math::
        |t - n| \le 0.5 + \frac{2 u}{|\log \beta|} n, \qquad u = 2^{-24} .

    0.5 allows for rounding t to a whole number. The other term is the drift of a power that
    is multiplied up step by step in float32, as `nn.Adam` does. Each of the n factors is beta
    rounded to float32, off by a factor within 1 ± u, and each product is rounded, by another one.
    So log(p) is off by at most 2 u n, and t by that over \|log(beta)\|: 1.2e-4 n for 0.999 and
    1.1e-6 n for 0.9. A power that was computed from n and rounded once, as ours are, is closer.

    Below 2^-126 float32 products lose their digits, and then stop changing or become zero. Such a
    power gives no estimate, but still shows that n is at least 126 log(2) / (\|log(beta)\| + 2 u) -
    0.5: 87,282 for 0.999, 829 for 0.9. A power tells nothing if its beta is 0, or if it is not in
    [0, 1].

    The result is the first of these:

    1. `update_count`, if every power fits it.
    2. `global_step`, if every power fits it.
    3. If some count fits every power: the whole number nearest to the estimate of the smaller beta
       that has one, whose drift is smaller. Where drift leaves several counts, the one whose
       float32 product is exactly the power, if there is one.
    4. If the powers contradict each other, at least one belongs to another decay rate than the
       beta given: `update_count` or `global_step`, the first that fits one of them; else the first
       that is greater than 0; else the estimate of rule 3. A power of 1 that another one
       contradicts was never written, and is left out.

    Args:
        update_count: the optimizer's own count of updates; None if it has none.
        global_step: the counter of the schedules, which may be -1; None if there is none.
        beta1_power: beta1 to the power of the count, in float32.
        beta2_power: the same of beta2.

    Example:
        >>> updates_made(0, 12, 0.9**6, 0.999**6, 0.9, 0.999)  # schedules ran twice as fast
        6
        >>> updates_made(0, 12, 0.9**12, 0.999**12, 0.9, 0.999)  # a state that nn.Adam wrote
        12
    """
    counts = [
        int(count) for count in (update_count, global_step) if count is not None and count >= 0
    ]
    evidence = [
        found
        for found in (power_range(beta1_power, beta1), power_range(beta2_power, beta2))
        if found
    ]
    if _contradict(evidence):
        evidence = [found for found in evidence if found.estimate != 0.0]
    for count in counts:
        if all(found.fits(count) for found in evidence):
            return count
    if _contradict(evidence):
        for count in counts:
            if any(found.fits(count) for found in evidence):
                return count
        for count in counts:
            if count > 0:
                return count
    return nearest_count(evidence)


class PowerRange(NamedTuple):
    """The counts that a beta power fits.

    Attributes:
        estimate: log(power) / log(beta); None if the power underflowed.
        least: the smallest count that fits, not necessarily a whole number.
        most: the largest one; infinite if the power underflowed.
    """

    power: float
    beta: float
    estimate: Optional[float]
    least: float
    most: float

    def fits(self, count: int) -> bool:
        """Returns whether the power may be that of `count` updates; see `updates_made`."""
        return self.least <= count <= self.most


def power_range(power: float, beta: float) -> Optional[PowerRange]:
    """Returns the counts that a beta power fits, or None if it tells nothing."""
    power, beta = float(power), float(beta)
    if not (0.0 < beta < 1.0 and 0.0 <= power <= 1.0):  # NaN neither
        return None
    rate = -math.log(beta)
    if power < _SMALLEST_NORMAL:
        least = -math.log(_SMALLEST_NORMAL) / (rate + 2.0 * _ROUNDING) - 0.5
        return PowerRange(power, beta, None, least, math.inf)
    drift = 2.0 * _ROUNDING / rate
    estimate = math.log(power) / -rate
    most = (estimate + 0.5) / (1.0 - drift) if drift < 1.0 else math.inf
    return PowerRange(power, beta, abs(estimate), (estimate - 0.5) / (1.0 + drift), most)


def nearest_count(evidence: Sequence[PowerRange]) -> int:
    """Returns the count nearest to the best of several `PowerRange`s; 0 if there are none.

    Where one has an estimate and another one underflowed, the result is at least what the latter
    allows, if they can agree.
    """
    estimates = sorted(
        (found for found in evidence if found.estimate is not None), key=lambda found: found.beta
    )
    least = max([0.0] + [found.least for found in evidence])
    if not estimates:
        return math.ceil(least)
    best = estimates[0]
    assert best.estimate is not None
    if _contradict(evidence):
        least, most = max(0.0, best.least), best.most
    else:
        most = min(found.most for found in evidence)
    exact = exact_count(best._replace(least=least, most=most))
    if exact is not None:
        return exact
    return int(min(max(round(best.estimate), math.ceil(least)), most))


def exact_count(found: PowerRange) -> Optional[int]:
    """Returns the count in a range whose float32 power is exactly the one found.

    The logarithm misses it from some thousands of steps on. The product is repeated as `nn.Adam`
    forms it, and then as one rounding of the exact power.

    Returns:
        None if no count has that power, if several have it, or if the power underflowed or the
        product is too long to be repeated.
    """
    if found.estimate is None or found.most > _MOST_REPEATED:
        return None
    first, last = max(1, math.ceil(found.least)), math.floor(found.most)
    running = np.multiply.accumulate(np.full(last, found.beta, np.float32))[first - 1 :]
    rounded = np.float32(np.float64(found.beta) ** np.arange(first, last + 1))
    for powers in (running, rounded):
        fitting = np.flatnonzero(powers == np.float32(found.power))
        if len(fitting) == 1:
            return first + int(fitting[0])
    return None


def _contradict(evidence):
    """Returns whether no whole number fits all."""
    if not evidence:
        return False
    least = math.ceil(max(found.least for found in evidence))
    return max(least, 0) > min(found.most for found in evidence)
