"""The claims of an experiment on text, each judged by a measured number and a limit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Optional

from ms_adam.lab.claims import HELD, NOT_HELD, NOT_MEASURED, Verdict, short
from ms_adam.lab.studies.text.config import SIDES

FOLLOWER_LIMIT = 1e-5  # relative


def judge(
    runs: Sequence[dict],
    bits: Sequence[dict],
    duplicates: Sequence[dict],
    least_accuracy: float,
    commonest: float,
) -> list[Verdict]:
    """Judges every claim.

    Args:
        runs: The rows of `comparison.summarize`.
        bits: The rows of `comparison.compare_bits`.
        duplicates: The rows of `comparison.compare_first_step`.
        least_accuracy: What a model that trains must reach on the held-out snippets.
        commonest: What naming the commoner verdict alone reaches on them.
    """
    return [
        same_bits(
            [row for row in bits if row["a"] == "lazy"],
            "The lazy Adam gives the same bits from row-sparse gradients in graph mode and from "
            "dense gradients in PyNative mode",
        ),
        same_bits(
            [row for row in bits if row["a"] == "exact"],
            "The exact Adam gives the same bits from row-sparse and from dense gradients, and in "
            "graph mode and PyNative mode",
        ),
        follows_nn(runs),
        trains(runs, least_accuracy, commonest),
        same_accuracy(
            runs, "lazy", "exact", "The lazy Adam reaches the held-out accuracy of the exact one"
        ),
        same_accuracy(
            runs,
            "lazy",
            "nn_lazy",
            "ms_adam's lazy Adam reaches the held-out accuracy of mindspore.nn.Adam's on target "
            "CPU",
        ),
        as_quick(
            runs, "nn_lazy", "A lazy step takes no longer than mindspore.nn.Adam's on target CPU"
        ),
        as_quick(runs, "exact", "A lazy step takes no longer than an exact one on dense gradients"),
        default_target_is_wrong(duplicates),
    ]


def same_bits(rows: Sequence[dict], claim: str) -> Verdict:
    why = (
        "One formula fed with one gradient: a word's values are summed in the same order, and a "
        "row that no snippet of the batch names has a gradient of zero. Parameters and moments are "
        "compared after every epoch."
    )
    if not rows:
        return Verdict(claim, NOT_MEASURED, "no pair of runs", "", why)
    parted = [row for row in rows if row["part"] is not None or row["distance"] != 0]
    if parted:
        measured = ", ".join(
            f"{SIDES[row['b']].title}, {SIDES[row['b']].mode}, seed {row['seed']}: parts in epoch "
            f"{row['part']}, {short(row['distance'])} at the end"
            for row in parted
        )
        return Verdict(claim, NOT_HELD, measured, "no bit differs", why)
    measured = f"all {rows[0]['epochs']} epochs equal in each of {len(rows)} pairs of runs"
    return Verdict(claim, HELD, measured, "no bit differs", why)


def follows_nn(runs: Sequence[dict]) -> Verdict:
    claim = (
        "With epsilon_hat=True the lazy Adam computes what mindspore.nn.Adam(use_lazy=True) does "
        "on target CPU: fed the same row-sparse gradients, both end at the same parameters"
    )
    why = (
        "max |difference| / max |way of nn.Adam's parameters|, the largest at the end of an epoch. "
        "Both round in float32 (6e-8), and nn.Adam multiplies the powers of its betas up step by "
        "step, so that its bias corrections drift. Without epsilon_hat there is another formula."
    )
    distances = [row["follower"] for row in runs if row["follower"] is not None]
    if not distances:
        return Verdict(claim, NOT_MEASURED, "no run that nn.Adam followed", "", why)
    worst = max(distances, key=lambda value: math.inf if math.isnan(value) else value)
    status = HELD if worst <= FOLLOWER_LIMIT else NOT_HELD
    measured = f"{short(worst)} (the worst of {len(distances)} runs)"
    return Verdict(claim, status, measured, f"at most {short(FOLLOWER_LIMIT)}", why)


def trains(runs: Sequence[dict], least_accuracy: float, commonest: float) -> Verdict:
    claim = "Every side of ms_adam learns from the snippets, from every seed"
    why = f"The config's limit; naming the commoner verdict alone is right in {commonest:.1%}."
    ours = [row for row in runs if SIDES[row["side"]].is_ours]
    if not ours:
        return Verdict(claim, NOT_MEASURED, "no run of ms_adam", "", why)
    worst = min(ours, key=lambda row: row["test_accuracy"])
    status = HELD if worst["test_accuracy"] >= least_accuracy else NOT_HELD
    measured = (
        f"{worst['test_accuracy']:.1%} held-out accuracy at worst ({worst['label']}, seed "
        f"{worst['seed']})"
    )
    return Verdict(claim, status, measured, f"at least {least_accuracy:.1%}", why)


def same_accuracy(runs: Sequence[dict], side: str, other: str, claim: str) -> Verdict:
    why = (
        "Seeds differ only in first weights and batch order. A difference between the means that "
        "is smaller than what the seed alone makes is no difference between the optimizers."
    )
    own, others = (_values(runs, name, "test_accuracy") for name in (side, other))
    if min(len(own), len(others)) < 2:
        return Verdict(claim, NOT_MEASURED, "needs both sides and two seeds", "", why)
    means = statistics.fmean(own), statistics.fmean(others)
    difference = means[0] - means[1]
    spread = max(max(own) - min(own), max(others) - min(others))
    measured = (
        f"mean held-out accuracy {means[0]:.2%} and {means[1]:.2%}: {100 * difference:+.2f} points"
    )
    limit = f"at most {100 * spread:.2f} points apart, the spread over {len(own)} seeds"
    return Verdict(claim, HELD if abs(difference) <= spread else NOT_HELD, measured, limit, why)


def as_quick(runs: Sequence[dict], other: str, claim: str) -> Verdict:
    why = (
        "Whole steps, the network's part in them. The sides take turns, an epoch each; of each "
        "turn the median step is taken, and of the turns the median ratio."
    )
    ratio = time_ratio(runs, "lazy", other)
    if ratio is None:
        return Verdict(claim, NOT_MEASURED, "needs both sides", "", why)
    own, others = (
        statistics.median(t for times in _values(runs, name, "step_ms") for t in times)
        for name in ("lazy", other)
    )
    measured = f"{own:.2f} ms and {others:.2f} ms, {ratio:.2f} of it"
    return Verdict(claim, HELD if ratio <= 1 else NOT_HELD, measured, "at most 1.00 of it", why)


def time_ratio(runs: Sequence[dict], side: str, other: str) -> Optional[float]:
    """The median over seeds and epochs of one side's step time in another's; None without them."""
    own, others = (
        {row["seed"]: row["step_ms"] for row in runs if row["side"] == name and row["step_ms"]}
        for name in (side, other)
    )
    ratios = [a / b for seed in own if seed in others for a, b in zip(own[seed], others[seed])]
    return statistics.median(ratios) if ratios else None


def default_target_is_wrong(rows: Sequence[dict]) -> Verdict:
    claim = (
        "Under its default target mindspore.nn.Adam(use_lazy=True) goes wrong where a batch names "
        "a word more than once, and only there"
    )
    why = (
        "The first step, which its two targets make from one place and with one gradient. "
        "Algorithm 1 then moves a row by learning rate x sqrt(width), whatever its gradient's size."
    )
    if not rows:
        return Verdict(claim, NOT_MEASURED, "needs both targets of nn.Adam", "", why)
    once, often = (
        [sum(row[name] for row in rows) for name in (kind, f"{kind}_unlike")]
        for kind in ("once", "often")
    )
    measured = (
        f"{often[1]} of {often[0]} words named more than once move by another distance than on "
        f"target CPU, {once[1]} of {once[0]} named once"
    )
    limit = "most of those named more than once, none of those named once"
    status = HELD if once[1] == 0 and 2 * often[1] > often[0] else NOT_HELD
    return Verdict(claim, status, measured, limit, why)


def _values(runs: Sequence[dict], side: str, name: str) -> list:
    return [row[name] for row in runs if row["side"] == side and row[name] is not None]
