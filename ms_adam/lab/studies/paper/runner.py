"""Carries out figures of the paper: the runs in worker processes, then the judgement."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from ms_adam.lab.run import ExperimentError
from ms_adam.lab.run.environment import environment
from ms_adam.lab.run.processes import Job, run_jobs
from ms_adam.lab.studies.paper import claims
from ms_adam.lab.studies.paper.cache import DEVICE_TARGET, Cache, surroundings
from ms_adam.lab.studies.paper.config import PaperFigure, Scale, scale_of
from ms_adam.lab.studies.paper.data import Examples, load_examples
from ms_adam.lab.studies.paper.progress import Told
from ms_adam.lab.studies.paper.sweep import (
    Line,
    Outcome,
    Spec,
    count,
    curves,
    lines_of,
    mean_cost,
    runs,
    steps_to,
    sweep,
)

SCHEMA = 1

_WORKER = "ms_adam.lab.studies.paper.worker"

WhenDone = Callable[[PaperFigure, Spec, Outcome], None]


class Interrupted(KeyboardInterrupt):
    """The user stopped the runs; the message says what was kept."""


class _NotThere(Exception):
    """A run that the cache does not have."""


@dataclasses.dataclass
class _Job:
    """A figure at a scale, and its runs that are done."""

    figure: PaperFigure
    scale: Scale
    examples: Examples
    cache: Cache

    def __post_init__(self):
        self.around = surroundings(self.examples.fingerprint)
        self.steps = len(self.examples) // self.figure.batch_size * self.scale.epochs
        if self.steps == 0:
            raise ExperimentError(
                f"{self.figure.name}: {len(self.examples)} examples ({self.examples.source}) are "
                f"less than batch_size = {self.figure.batch_size}"
            )

    def digest(self, spec: Spec) -> str:
        return spec.digest(self.figure, self.scale, self.around)

    def lines(self, get: Callable[[Spec], Optional[Outcome]]) -> list[Line]:
        def found(spec: Spec) -> Outcome:
            outcome = get(spec)
            if outcome is None:
                raise _NotThere(spec.label)
            return outcome

        return sweep(self.figure, self.scale, found)

    def cached(self) -> int:
        """How many of the runs are done. Judged runs count once their trials are all done."""
        found = 0

        def get(spec: Spec) -> Outcome:
            nonlocal found
            outcome = self.cache.load(self.digest(spec))
            if outcome is None:  # counts as the worst, so that going on is possible
                return Outcome(np.array([np.inf]), 0, 0.0)
            found += 1
            return outcome

        sweep(self.figure, self.scale, get)
        return found


def workers_here() -> int:
    """How many runs are made at a time if nobody says: one on each core."""
    return len(os.sched_getaffinity(0))


def reproduce(
    figures: Sequence[PaperFigure],
    scale_name: str,
    out: Path,
    told: Told,
    when_done: Optional[WhenDone] = None,
    *,
    workers: int = 1,
) -> dict[str, Any]:
    """Runs figures and writes ``results.json``.

    Args:
        figures: What to run, one after the other.
        scale_name: "quick", "standard" or "full".
        out: The folder to write to. Runs that an earlier call with the same configs has finished
            are taken from ``cache/`` in it.
        told: Is told how far it is.
        when_done: Is called with each run once all are there, cached ones too.
        workers: How many runs to make at a time, each on one core; at most one for each line.

    Returns:
        What ``results.json`` holds.

    Raises:
        ExperimentError: Two figures have one name, data are missing, or a worker failed.
        Interrupted: The user pressed Ctrl-C; what was done stays in the cache.
    """
    names = [figure.name for figure in figures]
    if len(set(names)) != len(names):
        raise ExperimentError(f"each config needs a name of its own; there are {', '.join(names)}")
    cache = Cache(out / "cache")
    cache.tidy()
    scales = [scale_of(figure, scale_name) for figure in figures]
    jobs = [
        _Job(figure, scale, load_examples(figure, scale.examples), cache)
        for figure, scale in zip(figures, scales)
    ]
    all_runs = [count(job.figure, job.scale) for job in jobs]
    done = [job.cached() for job in jobs]
    workers = min(workers, sum(len(list(lines_of(figure))) for figure in figures))
    told.whole(
        sum(
            (total - there) * job.steps * job.scale.step_ms / 1e3
            for job, total, there in zip(jobs, all_runs, done)
        ),
        sum(all_runs),
        sum(done),
        workers,
    )
    try:
        unfinished = [job for job, total, there in zip(jobs, all_runs, done) if there < total]
        if unfinished:
            _run(unfinished, scale_name, out, told, workers)
    except KeyboardInterrupt:
        kept = sum(job.cached() for job in jobs)
        raise Interrupted(
            f"stopped: {kept} of {sum(all_runs)} runs are done and kept in "
            f"{cache.folder}; the same command goes on from there"
        ) from None
    entries = []
    for job in jobs:
        lines = _found(job)
        if when_done is not None:
            for spec, _, outcome in runs(lines, job.figure):
                when_done(job.figure, spec, outcome)
        entries.append(_entry(job, scale_name, lines))
    content = {
        "schema": SCHEMA,
        "kind": "paper_figure",
        "scale": scale_name,
        "environment": environment(DEVICE_TARGET),
        "results": entries,
    }
    (out / "results.json").write_text(
        json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    return content


def _run(jobs: Sequence[_Job], scale_name: str, out: Path, told: Told, workers: int) -> None:
    """Has the runs made that the cache does not have."""
    of = {job.figure.name: job for job in jobs}
    task = {
        "figures": [job.figure.model_dump(mode="json") for job in jobs],
        "scale": scale_name,
        "cache": str(jobs[0].cache.folder),
    }
    names = [f"worker_{number + 1}" for number in range(workers)]
    everybody = [Job(_WORKER, name, task, out / f"{name}.log") for name in names]
    with contextlib.closing(run_jobs(everybody, workers)) as events:
        for number, event in events:
            told.run(
                number,
                event["figure"],
                event["label"],
                event["done"],
                event["steps"],
                event["done"] * of[event["figure"]].scale.step_ms / 1e3,
            )


def _found(job: _Job) -> list[Line]:
    """The lines of a figure, all runs of which are in the cache."""
    try:
        return job.lines(lambda spec: job.cache.load(job.digest(spec)))
    except _NotThere as missing:
        raise ExperimentError(
            f"{job.figure.name}: the run '{missing}' is not in the cache although the workers have "
            "finished; was the code or the data changed while they ran, or is another command at "
            f"work in {job.cache.folder.parent}?"
        ) from None


def _entry(job: _Job, scale_name: str, lines: list[Line]) -> dict[str, Any]:
    """The figure's entry in ``results.json``: numbers alone, infinity as the word "inf"."""
    figure, scale = job.figure, job.scale
    config = figure.model_dump(mode="json")
    for name in ("idx_directory", "cifar_directory"):  # the rest is this machine's business
        directory = getattr(figure.data, name)
        config["data"][name] = None if directory is None else directory.name
    all_runs = [
        {
            "variant": spec.variant.label,
            "optimizer": spec.contender.called,
            "purpose": purpose,
            "learning_rate": spec.learning_rate,
            "seed": spec.seed,
            "steps": outcome.steps,
            "seconds": round(outcome.seconds, 3),
            "diverged": outcome.diverged,
            "hash": job.digest(spec),
            "costs": [_plain(cost) for cost in outcome.costs],
        }
        for spec, purpose, outcome in runs(lines, figure)
    ]
    return {
        "figure": figure.name,
        "title": figure.title,
        "scale": {"name": scale_name, **scale.model_dump(mode="json")},
        "config": config,
        "config_sha256": hashlib.sha256(
            json.dumps(config, sort_keys=True).encode("utf-8")
        ).hexdigest(),
        "source": job.examples.source,
        "examples": len(job.examples),
        "examples_sha256": job.examples.fingerprint,
        "steps_per_epoch": job.steps // scale.epochs,
        "seconds": sum(run["seconds"] for run in all_runs),
        "lines": _summary(figure, scale, lines),
        "runs": all_runs,
        "verdicts": [dataclasses.asdict(verdict) for verdict in claims.judge(figure, scale, lines)],
    }


def _summary(figure: PaperFigure, scale: Scale, lines: list[Line]) -> list[dict[str, Any]]:
    """One row for each variant and optimizer, at its best learning rate over the judged seeds."""
    rows = []
    for line in lines:
        beside = [other for other in lines if other.variant == line.variant]
        target = _target(beside)
        costs = curves(line.judged)
        rows.append(
            {
                "variant": line.variant.label,
                "optimizer": line.contender.called,
                "best": line.best,
                "at_edge": line.at_edge,
                "tried": [
                    {
                        "learning_rate": rate,
                        "costs": [_plain(outcome.costs[-1]) for outcome in outcomes],
                        "early": None
                        if scale.early is None
                        else _plain(mean_cost(outcomes, scale.early)),
                        "mean": _plain(mean_cost(outcomes, -1)),
                    }
                    for rate, outcomes in line.trials.items()
                ],
                "final": [_plain(cost) for cost in costs[:, -1]],
                "target": _plain(target),
                "epochs_to_target": [_plain(steps_to(curve, target)) for curve in costs],
            }
        )
    return rows


def _target(lines: Sequence[Line]) -> float:
    """The cost at the end that the slowest optimizer reaches on every seed that did not diverge."""
    best = [curve.min() for line in lines for curve in curves(line.judged)]
    return float(max(best))


def _plain(value: float) -> Any:
    value = float(value)
    return value if abs(value) != float("inf") else "inf"
