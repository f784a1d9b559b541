"""Finds where two watched runs part, from the elements of each tensor that both wrote down."""

from __future__ import annotations

import base64
from typing import Any, Optional

import numpy as np

from ms_adam.lab.claims import short
from ms_adam.lab.measure import relative_distance

# float32 rounding, which training amplifies: tests of trainings hold 1e-5 after 12 steps.
TOLERANCE = 1e-4


def parted(one: dict[str, Any], other: dict[str, Any]) -> Optional[dict[str, Any]]:
    """Where two records of an optimizer part; None if they share no looked-at call.

    Returns:
        ``calls``, the number compared; ``bits``, the first call and tensor that are not equal in
        every bit; ``beyond``, likewise the first beyond `TOLERANCE`; ``farthest``, the largest
        distance. Each of these is None or has ``call``, ``parameter``, ``quantity`` ("gradient"
        comes first in a step, then "weight") and ``distance``.
    """
    looks = {look["call"]: look for look in one["looks"] if look.get("parameters")}
    pairs = [(looks[b["call"]], b) for b in other["looks"] if b["call"] in looks]
    pairs = [(a, b) for a, b in pairs if b.get("parameters")]
    if not pairs:
        return None
    unequal = [place for pair in pairs for place in _unequal(*pair)]
    beyond = [place for place in unequal if not place["distance"] <= TOLERANCE]
    return {
        "calls": len(pairs),
        "bits": unequal[0] if unequal else None,
        "beyond": beyond[0] if beyond else None,
        "farthest": max(unequal, key=lambda place: place["distance"], default=None),
    }


def _unequal(a, b):
    """Where a step differs, and how far: of all gradients, then of all weights."""
    same = {row[0]: row for row in b["parameters"]}
    rows = [(row, same[row[0]]) for row in a["parameters"] if row[0] in same]
    given = a["gradients"] == b["gradients"]  # or else one of them was inferred
    for place, quantity in ((5, "gradient"), (4, "weight")):
        for mine, other in rows if quantity == "weight" or given else ():
            x, y = (
                np.frombuffer(base64.b64decode(row[place]), "<f4").astype(float)
                for row in (mine, other)
            )
            if x.shape != y.shape or np.array_equal(x, y, equal_nan=True):
                continue
            both = np.isfinite(x) & np.isfinite(y)
            far = relative_distance(x, y) if both.all() and y.any() else 1.0
            at = {"call": a["call"], "parameter": mine[0], "quantity": quantity}
            yield {**at, "distance": far}


def all_parted(earlier: list[dict], later: list[dict]) -> dict[str, Any]:
    """Where two runs part, optimizer by optimizer in the order in which they were made."""
    pairs = list(zip(earlier, later))
    found = [parted(*pair) for pair in pairs]
    compared = [one for one in found if one]
    if not compared:
        return {"optimizers": [], "sentence": "The two runs have no step in common."}
    beyond = [one["beyond"] for one in compared if one["beyond"]]
    bits = [one["bits"] for one in compared if one["bits"]]
    if beyond:
        sentence = f"The two runs part at {_said(min(beyond, key=lambda at: at['call']))}."
    elif bits:
        far = max((one["farthest"] for one in compared), key=lambda at: at["distance"])
        first = _said(min(bits, key=lambda at: at["call"]))
        sentence = (
            f"The two runs stay within {TOLERANCE:g} of each other; not equal in every bit from "
            f"{first} on, and {short(far['distance'])} apart at most."
        )
    else:
        count = sum(one["calls"] for one in compared)
        sentence = f"The two runs are equal in every bit that was kept of {count} steps."
    return {"optimizers": compared, "sentence": sentence}


def _said(at: dict[str, Any]) -> str:
    return f"call {at['call']}, the {at['quantity']} of {at['parameter']} ({short(at['distance'])})"
