"""The claims of the study on text. They measure a config's entry in ``results.json``."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Optional

from ms_adam.lab.claims import Claim, Measured, short
from ms_adam.lab.sides import SEED_SPREAD, runs_of, same_accuracy, trains
from ms_adam.lab.studies.text.sides import SIDES

FOLLOWER_LIMIT = 1e-5  # relative


def same_bits(side: str, entry: dict) -> Optional[Measured]:
    """Measures whether the sides that are compared with `side` have its bits after every epoch."""
    rows = [row for row in entry["bits"] if row["a"] == side]
    if not rows:
        return None
    parted = [row for row in rows if row["part"] is not None or row["distance"] != 0]
    measured = ", ".join(
        f"{SIDES[row['b']].title}, {SIDES[row['b']].mode}, seed {row['seed']}: parts in epoch "
        f"{row['part']}, {short(row['distance'])} at the end"
        for row in parted
    )
    equal = f"all {rows[0]['epochs']} epochs equal in each of {len(rows)} pairs of runs"
    return Measured(not parted, measured or equal, "no bit differs")


def follows_nn(entry: dict) -> Optional[Measured]:
    """Measures the largest distance to the nn.Adam that was fed a run's own gradients."""
    distances = [row["follower"] for row in entry["runs"] if row["follower"] is not None]
    if not distances:
        return None
    worst = max(distances, key=lambda value: math.inf if math.isnan(value) else value)
    measured = f"{short(worst)} (the worst of {len(distances)} runs)"
    return Measured(worst <= FOLLOWER_LIMIT, measured, f"at most {short(FOLLOWER_LIMIT)}")


def ours_trains(entry: dict) -> Optional[Measured]:
    ours = [row for row in entry["runs"] if SIDES[row["side"]].is_ours]
    why = f"naming the commoner verdict alone is right in {entry['commonest']:.1%}"
    where = "held-out accuracy"
    return trains(
        ours, entry["config"]["compare"]["least_accuracy"], where, f"The config's limit; {why}."
    )


def as_accurate(side: str, other: str, entry: dict) -> Optional[Measured]:
    both = (runs_of(entry, "side", name) for name in (side, other))
    return same_accuracy(*both, "held-out accuracy")


def as_quick(other: str, entry: dict) -> Optional[Measured]:
    """Measures the time of a lazy step as a share of that of another side."""
    ratio = time_ratio(entry["runs"], "lazy", other)
    if ratio is None:
        return None
    own, others = (
        statistics.median(t for row in runs_of(entry, "side", name) for t in row["step_ms"] or ())
        for name in ("lazy", other)
    )
    measured = f"{own:.2f} ms and {others:.2f} ms, {ratio:.2f} of it"
    return Measured(ratio <= 1, measured, "at most 1.00 of it")


def time_ratio(runs: Sequence[dict], side: str, other: str) -> Optional[float]:
    """The median over seeds and epochs of one side's step time in another's; None without them."""
    own, others = (
        {row["seed"]: row["step_ms"] for row in runs if row["side"] == name and row["step_ms"]}
        for name in (side, other)
    )
    ratios = [a / b for seed in own if seed in others for a, b in zip(own[seed], others[seed])]
    return statistics.median(ratios) if ratios else None


def wrong_only_for_duplicates(entry: dict) -> Optional[Measured]:
    """Counts the words that nn.Adam's default target moves by another distance."""
    if not entry["duplicates"]:
        return None
    once, often = (
        [sum(row[name] for row in entry["duplicates"]) for name in (kind, f"{kind}_unlike")]
        for kind in ("once", "often")
    )
    return Measured(
        once[1] == 0 and 2 * often[1] > often[0],
        f"{often[1]} of {often[0]} words named more than once move by another distance than on "
        f"target CPU, {once[1]} of {once[0]} named once",
        "most of those named more than once, none of those named once",
    )


_BITS = (
    "One formula fed with one gradient: a word's values are summed in the same order, and a "
    "row that no snippet of the batch names has a gradient of zero. Parameters and moments are "
    "compared after every epoch."
)
_TIMES = (
    "Whole steps, the network's part in them. The sides take turns, an epoch each; of each "
    "turn the median step is taken, and of the turns the median ratio."
)
CLAIMS = [
    Claim(
        "The lazy Adam gives the same bits from row-sparse gradients in graph mode and from "
        "dense gradients in PyNative mode",
        _BITS,
        "no pair of runs",
        functools.partial(same_bits, "lazy"),
    ),
    Claim(
        "The exact Adam gives the same bits from row-sparse and from dense gradients, and in "
        "graph mode and PyNative mode",
        _BITS,
        "no pair of runs",
        functools.partial(same_bits, "exact"),
    ),
    Claim(
        "With epsilon_hat=True the lazy Adam computes what mindspore.nn.Adam(use_lazy=True) does "
        "on target CPU: fed the same row-sparse gradients, both end at the same parameters",
        "max |difference| / max |way of nn.Adam's parameters|, the largest at the end of an epoch. "
        "Both round in float32 (6e-8), and nn.Adam multiplies the powers of its betas up step by "
        "step, so that its bias corrections drift. Without epsilon_hat there is another formula.",
        "no run that nn.Adam followed",
        follows_nn,
    ),
    Claim(
        "Every side of ms_adam learns from the snippets, from every seed",
        "The config's limit.",
        "no run of ms_adam",
        ours_trains,
    ),
    Claim(
        "The lazy Adam reaches the held-out accuracy of the exact one",
        SEED_SPREAD,
        "needs both sides and two seeds",
        functools.partial(as_accurate, "lazy", "exact"),
    ),
    Claim(
        "ms_adam's lazy Adam reaches the held-out accuracy of mindspore.nn.Adam's on target CPU",
        SEED_SPREAD,
        "needs both sides and two seeds",
        functools.partial(as_accurate, "lazy", "nn_lazy"),
    ),
    Claim(
        "A lazy step takes no longer than mindspore.nn.Adam's on target CPU",
        _TIMES,
        "needs both sides",
        functools.partial(as_quick, "nn_lazy"),
    ),
    Claim(
        "A lazy step takes no longer than an exact one on dense gradients",
        _TIMES,
        "needs both sides",
        functools.partial(as_quick, "exact"),
    ),
    Claim(
        "Under its default target mindspore.nn.Adam(use_lazy=True) goes wrong where a batch names "
        "a word more than once, and only there",
        "The first step, which its two targets make from one place and with one gradient. "
        "Algorithm 1 then moves a row by learning rate x sqrt(width), whatever its gradient's "
        "size.",
        "needs both targets of nn.Adam",
        wrong_only_for_duplicates,
    ),
]
