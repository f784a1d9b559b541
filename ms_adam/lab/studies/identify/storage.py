"""Moments that are rounded stochastically: in which format an optimizer keeps them.

Elements with the same gradients then have different moments, two neighbours of the format. How far
these are apart tells how many binary places a number has. Elements share an exponent if the moments
of small gradients change where one gradient beside them is large.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from ms_adam.lab.studies.identify.driver import Driver, Refused
from ms_adam.lab.studies.identify.probes import Probe

_COUNT = 4096  # elements: as good as certain that two are rounded differently
_EVEN = np.array([0.3, 0.11, 0.7])  # gradients of all elements, step by step
_SMALL = 1e-7  # its square is less than 2^-31 of that of 1


def stochastic(driver: Driver) -> Optional[str]:
    """The format of the moments, in words, if they are rounded stochastically; else None."""
    even = np.repeat(_EVEN[:, None], _COUNT, axis=1)
    try:
        state = driver.states(Probe(even, np.zeros(_COUNT)))[-1]
        if not {"moment1", "moment2"} <= state.keys():
            return None
        found = [np.unique(np.abs(state[name][0])) for name in ("moment1", "moment2")]
        if all(values.size == 1 for values in found):
            return None
        block = _block(driver)
    except Refused:  # its state is not where others have it
        return None
    several = next(values for values in found if values.size > 1).astype(float)
    places = round(float(np.floor(np.log2(several[0])) - np.log2(several[1] - several[0])))
    name = {7: "bfloat16", 10: "float16"}.get(places, f"{places + 1} significant bits")
    if block:
        name = "int8" if places == 3 else name
        return f"{name}, blocks of {block}, stochastic"
    return f"{name}, stochastic"


def _block(driver):
    """The number of elements that a large one changes, itself among them; 0 if none."""
    small = np.full((1, _COUNT), _SMALL)
    beside = small.copy()
    beside[0, 0] = 1.0
    alone, changed = (
        driver.states(Probe(gradients, np.zeros(_COUNT)))[0]["moment2"][0]
        for gradients in (small, beside)
    )
    others = np.flatnonzero(np.abs(changed - alone)[1:] > np.abs(alone[1:]))
    return int(others[-1]) + 2 if others.size else 0
