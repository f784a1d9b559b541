"""Carries out figures of the paper: the runs in worker processes, then the verdicts."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ms_adam.lab.errors import ExperimentError, Interrupted, UserError
from ms_adam.lab.run.environment import cores
from ms_adam.lab.run.processes import Job, run_jobs
from ms_adam.lab.run.progress import duration
from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.run.study import Session, Study
from ms_adam.lab.studies.paper import claims
from ms_adam.lab.studies.paper.cache import DEVICE_TARGET, CachedFigure
from ms_adam.lab.studies.paper.config import PaperFigure
from ms_adam.lab.studies.paper.seeds import Plan, plan
from ms_adam.lab.studies.paper.sweep import (
    Key,
    Line,
    Outcome,
    Spec,
    curves,
    lines_of,
    mean_cost,
    steps_to,
)


def run(figures: Sequence[PaperFigure], session: Session) -> dict[str, Any]:
    """Makes the runs that ``cache/`` lacks, judges all claims and writes ``results.json``.

    Of the session's options, ``scale`` is "quick", "standard" or "full", ``jobs`` the number of
    runs at a time, one on each core, and ``tensorboard`` whether to write event files. After Ctrl-C
    finished runs stay in the cache.
    """
    scale = session.options.get("scale", "standard")
    event_files = session.out / "tensorboard" if session.options.get("tensorboard") else None
    if event_files is not None and importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "--tensorboard: tensorboardX, which writes the event files, is not "
            "installed: pip install 'ms_adam[tensorboard]'"
        )
    cache = session.out / "cache"
    for half_written in cache.glob(".unfinished-*"):  # when an earlier process was ended
        shutil.rmtree(half_written)
    cached = [CachedFigure(figure, scale, cache) for figure in figures]
    try:
        plans: list[Plan] = []
        while True:  # a round may show which claims are open, and get more seeds
            before, plans = plans, list(map(plan, cached))
            if before and (plans == before or not any(of.missing for of in plans)):
                break
            _make_runs(cached, plans, scale, session)
    except KeyboardInterrupt:
        plans = list(map(plan, cached))
        total, missing = (sum(getattr(of, name) for of in plans) for name in ("runs", "missing"))
        raise Interrupted(
            f"stopped: {total - missing} of {total} runs are done and kept in {cache}; the same "
            "command goes on from there"
        ) from None
    entries = [_entry(one, of.seeds, scale, event_files) for one, of in zip(cached, plans)]
    if event_files is not None:
        session.tell(f"Event files: tensorboard --logdir {event_files}")
    content = {"study": "paper", "scale": scale, **results(entries, [DEVICE_TARGET])}
    write_json(session.out / "results.json", content)
    return content


def _make_runs(
    figures: Sequence[CachedFigure], plans: Sequence[Plan], scale: str, session: Session
) -> None:
    """Has workers make the runs that the cache lacks. Times are estimates."""
    at_a_time = session.options.get("jobs") or cores()
    workers = min(at_a_time, sum(len(list(lines_of(one.figure))) for one in figures))
    run_seconds = {one.figure.name: one.steps * one.scale.step_ms / 1e3 for one in figures}
    seconds = sum(of.missing * of_run for of, of_run in zip(plans, run_seconds.values()))
    total, missing = (sum(getattr(of, name) for of in plans) for name in ("runs", "missing"))
    session.tell(
        f"{total} runs, of which {total - missing} are done already; about "
        f"{duration(seconds / workers)}, {workers} at a time"
    )
    unfinished = [(one.figure, of.seeds) for one, of in zip(figures, plans) if of.missing]
    if not unfinished:
        return
    content = {
        "figures": [figure.model_dump(mode="json") for figure, _ in unfinished],
        "seeds": {
            figure.name: [[*key, count] for key, count in seeds.items()]
            for figure, seeds in unfinished
        },
        "scale": scale,
        "cache": str(session.out / "cache"),
    }
    work = "ms_adam.lab.studies.paper.training:work"
    names = [f"worker_{number}" for number in range(1, workers + 1)]
    jobs = [Job(work, name, content, session.out / f"{name}.log") for name in names]
    made: dict[tuple[str, str], float] = {}  # seconds of each run
    with contextlib.closing(run_jobs(jobs, workers)) as events:
        for slot, event in events:
            figure, label, done, steps = map(event.get, ("figure", "label", "done", "steps"))
            made[figure, label] = run_seconds[figure] * done / steps
            whole = sum(made.values()), seconds
            session.progress(figure, label, done, steps, slot=slot, whole=whole)


def _entry(
    cached: CachedFigure, seeds: dict[Key, int], scale_name: str, event_files: Optional[Path]
) -> dict[str, Any]:
    """Returns the figure's entry in ``results.json``, and writes the event files of its runs."""
    figure, scale = cached.figure, cached.scale

    def refuse(spec: Spec) -> Outcome:
        raise ExperimentError(
            f"{figure.name}: the run '{spec.label}' is not in the cache although the "
            "workers have finished; was the code or the data changed while they ran, or does "
            "another command use the same folder?"
        )

    lines = cached.lines(refuse, seeds)
    runs = [run for line in lines for run in line.runs]
    if event_files is not None:
        cost = "training cost" if figure.held_out is None else figure.cost
        for spec, _, outcome in runs:
            _write_events(event_files / _file_name(figure.name), spec, outcome, cost)
    config = figure.public()
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
        for spec, purpose, outcome in runs
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
        "held_out": cached.examples.held_out,
        "examples_sha256": cached.examples.fingerprint,
        "steps_per_epoch": cached.steps // scale.epochs,
        "seconds": sum(run["seconds"] for run in all_runs),
        "lines": [_row(line, lines, scale.early) for line in lines],
        "runs": all_runs,
        "verdicts": [judged.verdict.as_dict() for judged in claims.judge(figure, scale, lines)],
    }


def _write_events(folder: Path, spec: Spec, outcome: Outcome, cost: str) -> None:
    """Writes a run's finite costs for TensorBoard, in the place of earlier files."""
    from tensorboardX import SummaryWriter

    run = f"lr {spec.learning_rate:g} seed {spec.seed}"
    parts = (spec.variant.label, spec.contender.called, run)
    folder = folder.joinpath(*map(_file_name, parts))
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder), write_to_disk=True) as writer:
        for epoch, value in enumerate(outcome.costs):
            if np.isfinite(value):
                writer.add_scalar(cost, float(value), epoch)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.,-]+", "_", text)


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
        "seeds": len(line.judged),
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
    "paper",
    PaperFigure,
    run,
    "ms_adam.lab.report.studies.paper:write_report",
    options=("scale", "jobs", "tensorboard"),
    verdicts=verdicts,
)
