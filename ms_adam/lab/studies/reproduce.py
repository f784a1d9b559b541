"""Carries out experiments, each as its kind does, and writes what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ms_adam.lab.run import ExperimentError
from ms_adam.lab.run.environment import environment
from ms_adam.lab.run.mode_runs import Progress
from ms_adam.lab.run.results import SCHEMA, plain, write_json
from ms_adam.lab.studies.kinds import kind_of


def reproduce(experiments: list[Any], out: Path, progress: Progress) -> dict[str, Any]:
    """Runs experiments and writes ``results.json`` and the arrays of each run.

    Args:
        experiments: What to run, one after the other, as `kinds.load_experiment` has them.
        out: The folder to write to; made if it is not there. Results of an earlier call in it are
            replaced, and nothing else in it is touched.
        progress: Is called while runs go on.

    Returns:
        What ``results.json`` holds: ``schema``, ``environment``, and one entry for each experiment
        in ``results``.

    Raises:
        ExperimentError: Two experiments have one name, data are missing, or a worker failed.
        Interrupted: The user pressed Ctrl-C.
    """
    names = [experiment.name for experiment in experiments]
    if len(set(names)) != len(names):
        raise ExperimentError(f"each config needs a name of its own; there are {', '.join(names)}")
    kinds = [kind_of(experiment) for experiment in experiments]
    data = [kind.prepare(experiment) for kind, experiment in zip(kinds, experiments)]
    out.mkdir(parents=True, exist_ok=True)
    for old in ("results.json", "index.html"):
        (out / old).unlink(missing_ok=True)
    entries, targets = [], set()
    for experiment, kind, of_experiment in zip(experiments, kinds, data):
        folder = out / experiment.name
        _clear(folder)
        facts = kind.run_workers(experiment, folder, progress)
        targets.update(run["device_target"] for run in facts)
        entries.append(kind.evaluate(experiment, of_experiment, folder, facts))
    content = {
        "schema": SCHEMA,
        "environment": environment(", ".join(sorted(targets))),
        "results": entries,
    }
    content = plain(content)
    write_json(out / "results.json", content)
    return content


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*_seed*.npz", "worker_*.log"):
        for path in folder.glob(pattern):
            path.unlink()
