"""The acceptance matrix: option x dtype x mode x backend, each held to float64 and to `nn.Adam`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from ms_adam.lab.errors import UserError
from ms_adam.lab.run.environment import cores, environment
from ms_adam.lab.run.processes import Job, WorkerError, run_jobs, work
from ms_adam.lab.run.results import SCHEMA
from ms_adam.lab.studies.matrix.cases import CASES, COLUMNS, DTYPES, SCHEMES
from ms_adam.lab.studies.matrix.cell_worker import (
    FELL_SHORT,
    HELD,
    NOT_AVAILABLE,
    REFERENCE,
    STATUSES,
    result,
)
from ms_adam.lab.studies.matrix.devices import why_not

MODES = ("graph", "pynative")

_WORKER = "ms_adam.lab.studies.matrix.cell_worker"


class Cell(NamedTuple):
    """One place of the matrix; the fields are names."""

    case: str
    dtype: str
    mode: str
    backend: str


def select(only: str = "") -> list[Cell]:
    """The cells whose names have all words of a text.

    Args:
        only: Words of the names of case, dtype, mode and backend, in any order: "amsgrad float16".

    Raises:
        UserError: There is no such cell.

    Example:
        >>> len(select("amsgrad float32 graph composite"))
        4
    """
    wanted = _words([only])
    cells = [
        Cell(case.name, dtype, mode, column.name)
        for case in CASES + SCHEMES
        for dtype in DTYPES
        for mode in MODES
        for column in COLUMNS
    ]
    chosen = [cell for cell in cells if wanted <= _words(cell)]
    if not chosen:
        known = ", ".join(sorted(set().union(*map(_words, cells))))
        raise UserError(
            f"no cell of the matrix has all words of {only!r} in its name; words are {known}"
        )
    return chosen


def _words(names):
    return set(" ".join(names).lower().split())


def validate(
    cells: list[Cell],
    device_target: str,
    out: Path,
    *,
    workers: Optional[int] = None,
    tell: Callable[[Cell, list[dict]], None] = lambda cell, results: None,
    save: Callable[[dict[str, Any]], None] = lambda content: None,
) -> dict[str, Any]:
    """Judges cells, each mode and dtype in a process of its own.

    Args:
        cells: The cells; see `select`.
        device_target: "CPU", "GPU" or "Ascend".
        out: The folder for logs of the processes; made if it is not there.
        workers: Number of processes at a time: one for each core on the CPU, else 1.
        tell: Called with each cell that was judged, and its results.
        save: Called with the content so far: at the start, and after each cell.

    Returns:
        The content of ``validate.json``: ``schema``, ``environment``, ``complete`` (whether all
        cells were judged), and in ``results`` one entry for each comparison of a cell: ``case``,
        ``dtype``, ``mode``, ``backend``, ``against`` ("reference" or "nn.Adam"), ``status``,
        ``share`` (the largest distance as a share of its bound, or None) and ``note``.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("worker_*.log"):
        old.unlink()
    done: dict[Cell, list[dict]] = {}
    where = environment()

    def known() -> dict[str, Any]:
        results = [
            {**cell._asdict(), **found} for cell in cells if cell in done for found in done[cell]
        ]
        return {
            "schema": SCHEMA,
            "environment": where,
            "complete": len(done) == len(cells),
            "results": results,
        }

    def judged(cell: Cell, results: list[dict]) -> None:
        done[cell] = results
        tell(cell, results)

    save(known())  # in the place of an earlier run's
    reason = obstacle(device_target, out)
    if reason is not None:
        for cell in cells:
            judged(cell, [result(REFERENCE, NOT_AVAILABLE, note=reason)])
        save(known())
        return known()
    where = environment(device_target)
    workers = workers or (cores() if device_target == "CPU" else 1)
    jobs = _jobs(cells, device_target, out)
    with contextlib.closing(run_jobs(jobs, workers, keep_going=True)) as events:
        for number, event in events:
            if isinstance(event, WorkerError):
                lost = [result(REFERENCE, FELL_SHORT, note=str(event).splitlines()[0])]
                for cell in map(Cell._make, jobs[number].content["cells"]):
                    if cell not in done:
                        judged(cell, lost)
            elif event["event"] == "cell":
                judged(Cell._make(event["cell"]), event["results"])
            else:
                continue
            save(known())
    return known()


def obstacle(device_target: str, out: Path) -> Optional[str]:
    """The reason why MindSpore cannot compute on a device here; None if it can.

    Tried in a process of its own, by computing something there: MindSpore may crash.
    """
    job = {"mode": "pynative", "device_target": device_target, "cells": []}
    log = out / f"worker_{device_target}.log"
    try:
        ready = [
            event["device_target"] for event in work(_WORKER, f"{device_target} probe", job, log)
        ]
    except WorkerError as error:
        said = log.read_text(encoding="utf-8", errors="replace")
        return why_not(device_target, said, os.environ) or str(error).splitlines()[0]
    return None if ready == [device_target] else "the probe did not answer"


def count(results: list[dict]) -> dict[str, int]:
    """The number of results of each status."""
    return {status: sum(result["status"] == status for result in results) for status in STATUSES}


def passed(results: list[dict]) -> Optional[bool]:
    """Whether all that ran held; None if nothing ran."""
    counts = count(results)
    if counts[FELL_SHORT]:
        return False
    return True if counts[HELD] else None


def _jobs(cells: list[Cell], device_target: str, out: Path) -> list[Job]:
    """A job for each mode and dtype: a process that dies takes no more than that with it."""
    jobs: dict[tuple[str, str], Job] = {}
    for cell in cells:
        name = f"{cell.mode} {cell.dtype}"
        content = {"mode": cell.mode, "device_target": device_target, "cells": []}
        log = out / f"worker_{name.replace(' ', '_')}.log"
        job = jobs.setdefault((cell.dtype, cell.mode), Job(_WORKER, name, content, log))
        job.content["cells"].append(list(cell))
    return list(jobs.values())
