"""Runs of an experiment, in one worker process for each MindSpore mode."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ms_adam.lab.errors import Interrupted
from ms_adam.lab.run.config import Section
from ms_adam.lab.run.processes import work
from ms_adam.lab.run.study import Progress


@dataclasses.dataclass(frozen=True)
class Job:
    """What one worker is to do.

    Attributes:
        mode: "graph" or "pynative".
        runs: How many trainings that is.
        more: What the worker is told besides the experiment, the mode and the folder.
    """

    mode: str
    runs: int
    more: dict


def run_jobs(
    experiment: Section, worker: str, jobs: Sequence[Job], folder: Path, progress: Progress
) -> list[dict]:
    """Lets workers train.

    Modes run one after the other, so that each has the machine's cores for itself.

    Args:
        experiment: Has a ``name`` and ``steps``, those of one run.
        worker: The module of the worker; see `ms_adam.lab.run.worker` for what it says.
        jobs: One for each mode.
        folder: Where the workers write; there it is.
        progress: Is called while runs go on.

    Returns:
        The facts of each finished run.
    """
    facts: list[dict] = []
    runs_in_all = sum(job.runs for job in jobs)
    try:
        for job in jobs:
            total = job.runs * experiment.steps
            progress(experiment.name, job.mode, 0, total)
            content = {
                "experiment": experiment.model_dump(mode="json"),
                "mode": job.mode,
                "folder": str(folder),
                **job.more,
            }
            events = work(worker, job.mode, content, folder / f"worker_{job.mode}.log")
            with contextlib.closing(events):
                for event in events:
                    if event["event"] == "run":
                        facts.append(event)
                    progress(experiment.name, job.mode, event["done"], total)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped: {len(facts)} of {runs_in_all} runs are kept as .npz files in {folder}; "
            "no report was written"
        ) from None
    return facts
