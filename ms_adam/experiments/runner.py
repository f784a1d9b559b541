"""Carries out an experiment: a worker process for each mode, then the numbers and the verdicts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Callable

from ms_adam.environment import environment
from ms_adam.experiments import ExperimentError
from ms_adam.experiments.comparison import (
    compare_modes,
    compare_pairs,
    read_result,
    summarize_run,
)
from ms_adam.experiments.config import REFERENCE, Experiment
from ms_adam.experiments.data import Split, load_split
from ms_adam.experiments.processes import work
from ms_adam.experiments.verdicts import judge

SCHEMA = 1

_WORKER = "ms_adam.experiments.worker"

# is told: the experiment's name, what is running, steps done, steps in all
Progress = Callable[[str, str, int, int], None]


class Interrupted(KeyboardInterrupt):
    """The user stopped the runs; the message says what was kept."""


def reproduce(experiments: list[Experiment], out: Path, progress: Progress) -> dict[str, Any]:
    """Runs experiments and writes ``results.json`` and the arrays of each run.

    Args:
        experiments: What to run, one after the other.
        out: The folder to write to; made if it is not there. Results of an earlier call in it are
            replaced, and nothing else in it is touched.
        progress: Is called while runs go on.

    Returns:
        What ``results.json`` holds: ``schema``, ``environment``, and one entry for each experiment
        in ``results``.

    Raises:
        ExperimentError: Two experiments have one name, images are missing, or a worker failed.
        Interrupted: The user pressed Ctrl-C.
    """
    names = [experiment.name for experiment in experiments]
    if len(set(names)) != len(names):
        raise ExperimentError(f"each config needs a name of its own; there are {', '.join(names)}")
    splits = [_load(experiment) for experiment in experiments]
    out.mkdir(parents=True, exist_ok=True)
    for old in ("results.json", "index.html"):
        (out / old).unlink(missing_ok=True)
    entries, targets = [], set()
    for experiment, split in zip(experiments, splits):
        folder = out / experiment.name
        _clear(folder)
        facts = run_workers(experiment, folder, progress)
        targets.update(run["device_target"] for run in facts)
        entries.append(evaluate(experiment, split, folder, facts))
    content = {
        "schema": SCHEMA,
        "environment": environment(", ".join(sorted(targets))),
        "results": entries,
    }
    content = plain(content)
    write_json(out / "results.json", content)
    return content


def run_workers(experiment: Experiment, folder: Path, progress: Progress) -> list[dict]:
    """Trains everything that the experiment asks for.

    Modes run one after the other, so that each has the machine's cores for itself.

    Returns:
        The facts of each finished run.
    """
    compare = experiment.compare
    facts: list[dict] = []
    # The reference's gradients come from one mode; graph mode is the quicker one.
    reference_mode = "graph" if "graph" in compare.modes else compare.modes[0]
    runs_in_all = len(compare.seeds) * (len(compare.optimizers) * len(compare.modes) + 1)
    try:
        for mode in compare.modes:
            with_reference = mode == reference_mode
            runs = len(compare.seeds) * (len(compare.optimizers) + with_reference)
            total = runs * experiment.steps
            progress(experiment.name, mode, 0, total)
            job = {
                "experiment": experiment.model_dump(mode="json"),
                "mode": mode,
                "reference": with_reference,
                "folder": str(folder),
            }
            events = work(_WORKER, mode, job, folder / f"worker_{mode}.log")
            with contextlib.closing(events):
                for event in events:
                    if event["event"] == "run":
                        facts.append(event)
                    progress(experiment.name, mode, event["done"], total)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped: {len(facts)} of {runs_in_all} runs are kept as .npz files in {folder}; "
            "no report was written"
        ) from None
    return facts


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
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
    }


def write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _load(experiment: Experiment) -> Split:
    data = experiment.data
    return load_split(data.idx_directory, data.train, data.test, data.split_seed)


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*_seed*.npz", "worker_*.log"):
        for path in folder.glob(pattern):
            path.unlink()


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become the words "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
