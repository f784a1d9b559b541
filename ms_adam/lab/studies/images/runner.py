"""Carries out experiments on images, and reads back what they wrote."""

from __future__ import annotations

from pathlib import Path

from ms_adam.lab.problems.images import Split, load_split
from ms_adam.lab.run.comparison import REFERENCE, compare_pairs, read_result
from ms_adam.lab.run.mode_runs import Job, Progress, run_jobs
from ms_adam.lab.studies.images.comparison import compare_modes, summarize_run
from ms_adam.lab.studies.images.config import Experiment
from ms_adam.lab.studies.images.verdicts import judge

_WORKER = "ms_adam.lab.studies.images.worker"


def prepare(experiment: Experiment) -> Split:
    """Loads the images, before anything runs."""
    data = experiment.data
    return load_split(data.idx_directory, data.train, data.test, data.split_seed)


def run_workers(experiment: Experiment, folder: Path, progress: Progress) -> list[dict]:
    """Trains everything that the experiment asks for; see `run_jobs`."""
    compare = experiment.compare
    # The reference's gradients come from one mode; graph mode is the quicker one.
    reference_mode = "graph" if "graph" in compare.modes else compare.modes[0]
    jobs = []
    for mode in compare.modes:
        with_reference = mode == reference_mode
        runs = len(compare.seeds) * (len(compare.optimizers) + with_reference)
        jobs.append(Job(mode, runs, {"reference": with_reference}))
    return run_jobs(experiment, _WORKER, jobs, folder, progress)


def evaluate(experiment: Experiment, split: Split, folder: Path, facts: list[dict]) -> dict:
    """Reads the arrays of all runs back and makes the experiment's entry in ``results.json``."""
    order = [*experiment.compare.optimizers, REFERENCE]
    facts = sorted(facts, key=lambda run: order.index(run["optimizer"]))  # modes keep their order
    results = [read_result(folder, run) for run in facts]
    runs = [summarize_run(result) for result in results]
    modes = compare_modes(results)
    config = experiment.model_dump(mode="json")
    if experiment.data.idx_directory is not None:  # its name; the rest is this machine's business
        config["data"]["idx_directory"] = experiment.data.idx_directory.name
    verdicts = judge(runs, modes, experiment.compare.least_accuracy)
    return {
        "experiment": experiment.name,
        "config": config,
        "images_sha256": split.fingerprint,
        "parameters": int(results[0].arrays["final"].size),
        "runs": runs,
        "pairs": compare_pairs(results),
        "modes": modes,
        "verdicts": [verdict.as_dict() for verdict in verdicts],
    }
