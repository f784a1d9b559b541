"""The numbers with which an optimizer runs, measured in its moments and in its first step.

A moment that starts at 0 becomes m1 = (1 - beta) x in the first step, of which x is known, and
m2 = beta m1 + (1 - beta) x2 in the second. So 1 - beta and beta are each measured, to a rounding of
the moment: they need not add up to 1. With x2 = 0 in later steps, a moment falls by beta a step, or
does not, if its dtype rounds it back. Epsilon decides where a gradient is much smaller than it.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

from ms_adam.lab.studies.identify.driver import Driver, Refused
from ms_adam.lab.studies.identify.forms import Form, Numbers
from ms_adam.lab.studies.identify.probes import Probe

# A float32 moment is rounded two to four times in a step, by 6e-8 of its value each time.
NEAR = 1e-6
_TINY, _LATER = 2.0**-10, 4  # gradient of the second step; steps after it
_ALIKE = 1024  # elements: of those that are rounded stochastically, some fall in these steps
# How 1 - beta may be taken, and what it is then.
_TAKEN = {
    "float32": lambda beta: 1.0 - float(np.float32(beta)),
    "float16": lambda beta: 1.0 - float(np.float16(beta)),
    "bfloat16": lambda beta: 1.0 - _bfloat16(beta, 0x8000),
    "bfloat16, rounded down": lambda beta: 1.0 - _bfloat16(beta, 0),
}


class Moment(NamedTuple):
    """A measured moment."""

    beta: float  # what is left of it in a step
    gain: float  # the factor of what enters it, 1 - beta as it is published
    stalls: bool  # whether it stays the same in steps without a gradient


def moments(driver: Driver) -> dict[str, Moment]:
    """{"beta1": ..., "beta2": ...} of those moments that the optimizer lets be read."""
    gradients = np.zeros((2 + _LATER, _ALIKE))
    gradients[:2] = np.array([[1.0], [_TINY]])
    try:
        states = driver.states(Probe(gradients, np.zeros(_ALIKE)))
    except Refused:  # its state is not where others have it
        return {}
    found = {}
    for role, quantity, power in (("beta1", "moment1", 1), ("beta2", "moment2", 2)):
        if quantity not in states[0]:
            continue
        values = [float(np.mean(state[quantity][0], dtype=np.float64)) for state in states]
        if not values[0]:
            continue
        beta = (values[1] - values[0] * _TINY**power) / values[0]
        # The probe is for a moment that is kept; one of a lazy optimizer stays on purpose.
        found[role] = Moment(beta, values[0], values[-1] == values[1])
    return found


def epsilon(driver: Driver, form: Form, numbers: Numbers) -> Optional[float]:
    """The epsilon that explains the first step of a small gradient; None if there is none."""
    if form.epsilon == "none" or not numbers.eps:
        return None
    small = 1e-3 * (numbers.eps**0.5 if form.epsilon == "inside" else numbers.eps)
    small = max(small, 1e-16)  # its square is in float32's range
    probe = Probe(np.array([[small]]).astype(np.float32).astype(np.float64), np.zeros(1))
    (place,) = np.abs(driver.run(probe)[0])
    low, high = 1e-6 * numbers.eps, 1e6 * numbers.eps  # the place falls as epsilon grows
    for _ in range(100):
        middle = (low * high) ** 0.5
        (there,) = np.abs(form.walk(numbers._replace(eps=middle), *probe)[0])
        low, high = (middle, high) if there > place else (low, middle)
    return (low * high) ** 0.5


def decay(
    driver: Driver, form: Form, rate: float, gain: Optional[float], **roles: float
) -> Optional[float]:
    """The weight decay that acts on a weight of 1 without a gradient.

    None if it has no known form, if it is L2 and the first moment, which it enters, cannot be read,
    or if the learning rate is so small that the weight, rounded to float32, hides it.
    """
    probe = Probe(np.zeros((1, 1)), np.ones(1))
    if form.decay == "L2":
        state = driver.states(probe, **roles)[0]
        return gain and float(state["moment1"][0].reshape(-1)[0]) / gain
    if form.decay == "decoupled" and rate < 0.1:
        return None
    lost = 1.0 - float(driver.run(probe, **roles)[0, 0])
    return {"decoupled": lost / rate, "unscaled": lost}.get(form.decay)


def taken_in(beta: float, gain: float) -> str:
    """In which dtype 1 - beta was taken to become `gain`, in words; empty if in none known."""
    for name, taken in _TAKEN.items():
        if taken(beta) and abs(gain / taken(beta) - 1.0) <= NEAR:
            return f" (taken in {name})"
    return ""


def differs(measured: float, given: float) -> bool:
    """Whether a measured number is not the given one."""
    return abs(measured - given) > NEAR * abs(given)


def remarks(name: str, measured: Optional[float], given: float, more: str = "") -> list[str]:
    """What to say of a number: nothing if it is as given, or could not be measured."""
    if measured is None or not differs(measured, given):
        return []
    return [f"{name} runs as {measured:.8g}{more}"]


def with_moments(numbers: Numbers, found: dict[str, Moment]) -> Numbers:
    """The numbers with the measured decay rates: those that fit their gains."""
    betas = {
        # 1 - gain has the digits of 1 - beta.
        role: 1.0 - it.gain
        for role, it in found.items()
        if differs(it.gain, 1.0 - getattr(numbers, role)) and abs(1.0 - it.gain - it.beta) <= NEAR
    }
    return numbers._replace(**betas)


def _bfloat16(value, half):
    bits = np.float32(value).view(np.uint32) + np.uint32(half)
    return float((bits & np.uint32(0xFFFF0000)).view(np.float32))
