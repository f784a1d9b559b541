"""Experiments on text: the exact Adam, the lazy one and MindSpore's, on row-sparse gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_adam.experiments.comparison import Result, compare_pairs, read_result
from ms_adam.experiments.mode_runs import Job, Progress, run_jobs
from ms_adam.experiments.text import CLASSES, PADDING, TextSplit, load_text_split
from ms_adam.experiments.text_config import SIDES, TextExperiment
from ms_adam.experiments.text_verdicts import judge

_WORKER = "ms_adam.experiments.text_worker"

# Sides that must have the same bits: one formula, fed with one gradient in several forms.
EXACT = ("exact", "exact_rows", "exact_pynative")
LAZY = ("lazy", "lazy_pynative")

# Two optimizers that compute the same move a row alike but for roundings: a step's 20 operations.
_ALIKE = 20 * 2.0**-24

_WORDS_SHOWN = 12
_SNIPPETS_WITH_A_SHOWN_WORD = 20  # rarer words are moved too seldom to say much


def prepare(experiment: TextExperiment) -> TextSplit:
    """Loads the snippets, before anything runs."""
    data = experiment.data
    return load_text_split(data.words, data.train, data.test, data.split_seed)


def run_workers(experiment: TextExperiment, folder: Path, progress: Progress) -> list[dict]:
    """Trains everything that the experiment asks for; see `run_jobs`."""
    modes = dict.fromkeys(SIDES[side].mode for side in experiment.compare.sides)
    seeds = len(experiment.compare.seeds)
    jobs = [Job(mode, seeds * len(experiment.sides_of(mode)), {}) for mode in modes]
    return run_jobs(experiment, _WORKER, jobs, folder, progress)


def evaluate(
    experiment: TextExperiment, split: TextSplit, folder: Path, facts: list[dict]
) -> dict[str, Any]:
    """Reads the arrays of all runs back and makes the experiment's entry in ``results.json``."""
    order = experiment.compare.sides
    facts = sorted(facts, key=lambda run: order.index(run["side"]))
    results = [read_result(folder, run) for run in facts]
    runs = [summarize(result, experiment.training.epochs) for result in results]
    bits = [part for sides in (EXACT, LAZY) for part in compare_bits(results, sides)]
    duplicates = compare_first_step(results, "nn_lazy", "nn_lazy_default")
    least_accuracy, commonest = experiment.compare.least_accuracy, split.test.commonest
    verdicts = judge(runs, bits, duplicates, least_accuracy, commonest)
    return {
        "experiment": experiment.name,
        "config": experiment.model_dump(mode="json"),
        "bags_sha256": split.fingerprint,
        "words_each": split.train.words_each,
        "commonest": commonest,
        "parameters": int(results[0].arrays["final"].size),
        "runs": runs,
        "pairs": compare_pairs(results),
        "bits": bits,
        "duplicates": duplicates,
        "telling_words": telling_words(split, results[0], experiment.model.width),
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
    }


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
