"""Carries out experiments on text, and reads back what they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ms_adam.lab.problems.text import TextSplit, load_text_split
from ms_adam.lab.run.comparison import compare_pairs, read_result
from ms_adam.lab.run.mode_runs import Job, Progress, run_jobs
from ms_adam.lab.studies.text.comparison import (
    compare_bits,
    compare_first_step,
    summarize,
    telling_words,
)
from ms_adam.lab.studies.text.config import SIDES, TextExperiment
from ms_adam.lab.studies.text.verdicts import judge

_WORKER = "ms_adam.lab.studies.text.worker"

# Sides that must have the same bits: one formula, fed with one gradient in several forms.
EXACT = ("exact", "exact_rows", "exact_pynative")
LAZY = ("lazy", "lazy_pynative")


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
        "verdicts": [verdict.as_dict() for verdict in verdicts],
    }
