"""Carries out figures of the paper: the runs in worker processes, then the verdicts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from ms_adam.lab.errors import ExperimentError, Interrupted
from ms_adam.lab.run.config import refuse_equal_names
from ms_adam.lab.run.processes import Job, run_jobs
from ms_adam.lab.run.progress import duration
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Session, Study
from ms_adam.lab.studies.paper import claims
from ms_adam.lab.studies.paper.cache import DEVICE_TARGET, Cache, CachedFigure
from ms_adam.lab.studies.paper.config import PaperFigure
from ms_adam.lab.studies.paper.sweep import (
    Line,
    Outcome,
    Run,
    Spec,
    curves,
    lines_of,
    mean_cost,
    steps_to,
)
from ms_adam.lab.studies.paper.tensorboard import EventFiles


def run(figures: Sequence[PaperFigure], session: Session) -> dict[str, Any]:
    """Makes the runs that ``cache/`` lacks, judges all claims and writes ``results.json``.

    Args:
        figures: The figures, run one after the other.
        session: Of its options, ``scale`` is "quick", "standard" or "full", ``jobs`` the number of
            runs at a time, one on each core, and ``tensorboard`` whether to write event files.

    Returns:
        The content of ``results.json``.

    Raises:
        ExperimentError: Two figures have one name, data are missing, or a worker failed.
        Interrupted: The user pressed Ctrl-C; finished runs stay in the cache.
    """
    refuse_equal_names(figures)
    scale = session.options.get("scale", "standard")
    jobs = session.options.get("jobs") or len(os.sched_getaffinity(0))
    event_files = None
    if session.options.get("tensorboard"):
        event_files = EventFiles(session.out / "tensorboard")
    cache = Cache(session.out / "cache")
    cache.tidy()
    cached = [CachedFigure(figure, scale, cache) for figure in figures]
    try:
        _make_runs(cached, scale, min(jobs, sum(len(list(lines_of(f))) for f in figures)), session)
    except KeyboardInterrupt:
        total, done = (sum(numbers) for numbers in zip(*map(_count, cached)))
        raise Interrupted(
            f"stopped: {done} of {total} runs are done and kept in {cache.folder}; the same "
            "command goes on from there"
        ) from None
    entries = []
    for one in cached:
        lines = _finished(one)
        if event_files is not None:
            for spec, _, outcome in _runs(lines):
                event_files.write(one.figure, spec, outcome)
        entries.append(_entry(one, scale, lines))
    if event_files is not None:
        session.tell(f"Event files: tensorboard --logdir {event_files.folder}")
    content = {"study": "paper", "scale": scale, **results(entries, [DEVICE_TARGET])}
    write_json(session.out / "results.json", content)
    return content


def _count(cached: CachedFigure) -> tuple[int, int]:
    """Returns the number of runs, and of finished ones.

    Judged runs count once all their trials are finished: until then their rate is not known.
    """
    missing: list[Spec] = []

    def make(spec: Spec) -> Outcome:
        missing.append(spec)
        return Outcome(np.array([np.inf]), 0, 0.0)  # the worst cost, so that the sweep goes on

    total = len(_runs(cached.lines(make)))
    return total, total - len(missing)


def _runs(lines: Sequence[Line]) -> list[Run]:
    return [run for line in lines for run in line.runs]


def _make_runs(figures: Sequence[CachedFigure], scale: str, workers: int, session: Session) -> None:
    """Has workers make the runs that the cache lacks. Times are estimates."""
    counts = [_count(one) for one in figures]
    seconds = [
        (total - done) * one.steps * one.scale.step_ms / 1e3
        for one, (total, done) in zip(figures, counts)
    ]
    total, done = (sum(numbers) for numbers in zip(*counts))
    session.tell(
        f"{total} runs, of which {done} are done already; about "
        f"{duration(sum(seconds) / workers)}, {workers} at a time"
    )
    unfinished = [one for one, (total, done) in zip(figures, counts) if done < total]
    if not unfinished:
        return
    step_seconds = {one.figure.name: one.scale.step_ms / 1e3 for one in unfinished}
    content = {
        "figures": [one.figure.model_dump(mode="json") for one in unfinished],
        "scale": scale,
        "cache": str(session.out / "cache"),
    }
    jobs = [
        Job(
            "ms_adam.lab.studies.paper.worker",
            f"worker_{number}",
            content,
            session.out / f"worker_{number}.log",
        )
        for number in range(1, workers + 1)
    ]
    made: dict[tuple[str, str], float] = {}  # seconds of each run
    with contextlib.closing(run_jobs(jobs, workers)) as events:
        for number, event in events:
            figure, label = event["figure"], event["label"]
            made[figure, label] = event["done"] * step_seconds[figure]
            session.progress(
                figure,
                label,
                event["done"],
                event["steps"],
                slot=number,
                whole=(sum(made.values()), sum(seconds)),
            )


def _finished(cached: CachedFigure) -> list[Line]:
    """Returns the lines of a figure, all runs of which must be in the cache."""

    def refuse(spec: Spec) -> Outcome:
        raise ExperimentError(
            f"{cached.figure.name}: the run '{spec.label}' is not in the cache although the "
            "workers have finished; was the code or the data changed while they ran, or does "
            "another command use the same folder?"
        )

    return cached.lines(refuse)


def _entry(cached: CachedFigure, scale_name: str, lines: list[Line]) -> dict[str, Any]:
    """Returns the figure's entry in ``results.json``."""
    figure, scale = cached.figure, cached.scale
    config = figure.model_dump(mode="json")
    for name in ("idx_directory", "cifar_directory"):  # without the paths of this machine
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
            "hash": cached.digest(spec),
            "costs": outcome.costs.tolist(),
        }
        for spec, purpose, outcome in _runs(lines)
    ]
    text = json.dumps(config, sort_keys=True)
    return {
        "figure": figure.name,
        "title": figure.title,
        "scale": {"name": scale_name, **scale.model_dump(mode="json")},
        "config": config,
        "config_sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        "source": cached.examples.source,
        "examples": len(cached.examples),
        "examples_sha256": cached.examples.fingerprint,
        "steps_per_epoch": cached.steps // scale.epochs,
        "seconds": sum(run["seconds"] for run in all_runs),
        "lines": [_row(line, lines, scale.early) for line in lines],
        "runs": all_runs,
        "verdicts": [verdict.as_dict() for verdict in claims.judge(figure, scale, lines)],
    }


def _row(line: Line, lines: Sequence[Line], early: Optional[int]) -> dict[str, Any]:
    """Summarises one variant and optimizer, at its best learning rate over the judged seeds."""
    costs = curves(line.judged)
    # The cost that the slowest optimizer of the variant reaches on every seed.
    target = max(
        curves(other.judged).min(axis=1).max() for other in lines if other.variant == line.variant
    )
    return {
        "variant": line.variant.label,
        "optimizer": line.contender.called,
        "best": line.best,
        "at_edge": line.at_edge,
        "tried": [
            {
                "learning_rate": rate,
                "costs": [float(outcome.costs[-1]) for outcome in outcomes],
                "early": None if early is None else mean_cost(outcomes, early),
                "mean": mean_cost(outcomes, -1),
            }
            for rate, outcomes in line.trials.items()
        ],
        "final": costs[:, -1].tolist(),
        "target": float(target),
        "epochs_to_target": [steps_to(curve, target) for curve in costs],
    }


def verdicts(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the verdicts of all figures, each with the name of its figure."""
    return [
        {"figure": entry["figure"], **verdict}
        for entry in content["results"]
        for verdict in entry["verdicts"]
    ]


STUDY = Study(
    name="paper",
    config=PaperFigure,
    run=run,
    page="ms_adam.lab.report.studies.paper:write_report",
    options=("scale", "jobs", "tensorboard"),
    verdicts=verdicts,
)
