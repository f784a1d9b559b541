"""The numbers of an experiment: each run alone, sides against each other, and what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ms_adam.lab.problems.text import CLASSES, PADDING, TextSplit
from ms_adam.lab.run.comparison import Result
from ms_adam.lab.studies.text.config import SIDES

# Two optimizers that compute the same move a row alike but for roundings: a step's 20 operations.
_ALIKE = 20 * 2.0**-24

_WORDS_SHOWN = 12
_SNIPPETS_WITH_A_SHOWN_WORD = 20  # rarer words are moved too seldom to say much


def summarize(result: Result, epochs: int) -> dict[str, Any]:
    """The row of one run.

    Returns:
        ``final_loss`` is the mean over the last epoch's batches; ``step_ms`` the median of each
        epoch's steps, in milliseconds, or None where nn.Adam took part of the time by following;
        ``follower`` the largest distance to it at the end of an epoch, or None.
    """
    arrays = result.arrays
    side = result.facts["side"]
    follower = arrays.get("follower")
    by_epoch = np.median(arrays["step_ms"].reshape(epochs, -1), axis=1)
    return {
        "side": side,
        **result.columns,
        "steps": len(arrays["loss"]),
        "final_loss": float(np.mean(arrays["loss"].reshape(epochs, -1)[-1])),
        "test_loss": float(arrays["test_loss"][-1]),
        "test_accuracy": float(arrays["test_accuracy"][-1]),
        "step_ms": None if SIDES[side].followed else by_epoch.tolist(),
        "follower": None if follower is None else float(np.max(follower)),  # NaN stays NaN
    }


def compare_bits(results: Sequence[Result], sides: Sequence[str]) -> list[dict[str, Any]]:
    """The first of some sides against each other one, bit for bit, for each seed.

    Returns:
        ``part`` is the first epoch (from 1) after which parameters or moments differ in any bit,
        or None; ``distance`` the largest difference of a final parameter.
    """
    found = {(result.facts["side"], result.seed): result.arrays for result in results}
    first, *others = sides
    rows = []
    for (side, seed), arrays in found.items():
        if side not in others or (first, seed) not in found:
            continue
        of_first = found[(first, seed)]
        different = np.flatnonzero(of_first["digest"] != arrays["digest"])
        rows.append(
            {
                "a": first,
                "b": side,
                "seed": seed,
                "epochs": len(arrays["digest"]),
                "part": int(different[0]) + 1 if len(different) else None,
                "distance": float(np.max(np.abs(of_first["final"] - arrays["final"]))),
            }
        )
    return rows


def compare_first_step(results: Sequence[Result], right: str, other: str) -> list[dict[str, Any]]:
    """Where two sides part in their first step, which both make from one place.

    Returns:
        For each seed the rows of the table that the first batch names ``once`` and ``often``, and
        how many of them the two sides move by unlike distances, ``once_unlike``, ``often_unlike``.
    """
    found = {(result.facts["side"], result.seed): result.arrays for result in results}
    rows = []
    for (side, seed), arrays in found.items():
        if side != right or (other, seed) not in found:
            continue
        named = arrays["named_first"].copy()
        named[PADDING] = 0  # its gradient is zero, however often it is named
        moved, moved_other = arrays["moved_first"], found[(other, seed)]["moved_first"]
        unlike = ~(np.abs(moved - moved_other) <= _ALIKE * np.abs(moved))
        rows.append(
            {
                "seed": seed,
                "once": int(np.sum(named == 1)),
                "once_unlike": int(np.sum(unlike[named == 1])),
                "often": int(np.sum(named > 1)),
                "often_unlike": int(np.sum(unlike[named > 1])),
            }
        )
    return rows


def telling_words(split: TextSplit, result: Result, width: int) -> dict[str, list[str]]:
    """The words that speak most for each verdict, by what a trained model gives them.

    The logits are linear in the words' rows, so a word's own part is its row times the difference
    of the dense layer's weights.
    """
    final = result.arrays["final"]
    table = final[: split.rows * width].reshape(split.rows, width)
    weight = final[table.size : table.size + len(CLASSES) * width].reshape(len(CLASSES), width)
    for_fresh = table[1:] @ (weight[1] - weight[0])
    common = np.bincount(split.train.words.ravel(), minlength=split.rows)[1:]
    known = np.flatnonzero(common >= _SNIPPETS_WITH_A_SHOWN_WORD)
    order = known[np.argsort(for_fresh[known], kind="stable")]
    ends = {"rotten": order[:_WORDS_SHOWN], "fresh": order[::-1][:_WORDS_SHOWN]}
    return {name: [split.vocabulary[place] for place in places] for name, places in ends.items()}
