"""Runs a user's command and follows the optimizers of its Python processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from ms_adam.lab.errors import UserError
from ms_adam.lab.studies.watch import hook
from ms_adam.lab.studies.watch.schedule import promised

RECORDS = "records"  # the folder of what each process wrote


def run(
    command: Sequence[str],
    out: Path,
    every: Optional[int] = None,
    calls: Optional[Sequence[int]] = None,
    replace: Optional[str] = None,
    stdout: Optional[int] = None,
) -> int:
    """Runs a command to its end; the records of its processes are in ``out/records`` then.

    Args:
        command: The program and its arguments.
        out: A folder.
        every, calls: Which calls of an optimizer are looked at, see `schedule.Budget`.
        replace: None, or one of `replacing.FORMULAS`.
        stdout: As in `subprocess.Popen`; None: that of this process, as its other streams.

    Returns:
        The exit status as a shell has it: 128 + n if signal n ended the program.

    Raises:
        UserError: The program does not start.
    """
    records = (out / RECORDS).resolve()
    shutil.rmtree(records, ignore_errors=True)
    records.mkdir(parents=True)
    folders = {"folder": str(records), "root": str(Path(__file__).parents[4])}
    settings = {"every": every, "calls": calls, "replace": replace, **folders}
    with tempfile.TemporaryDirectory(prefix="ms-adam-watch-") as folder:
        shutil.copy(hook.__file__, Path(folder) / "sitecustomize.py")
        paths = filter(None, [folder, os.environ.get("PYTHONPATH")])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            hook.VARIABLE: json.dumps(settings),
        }
        try:
            process = subprocess.Popen(command, env=environment, stdout=stdout)
        except OSError as error:
            raise UserError(f"{command[0]} does not start: {error.strerror}") from error
        with _signals_for(process):
            status = process.wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _signals_for(process: subprocess.Popen) -> Iterator[None]:
    """Leaves signals to the program: Ctrl-C reaches it anyway, SIGTERM is handed on."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def records(out: Path) -> list[dict[str, Any]]:
    """The optimizers of all processes in the order in which they were made, with their looks.

    Each has the keys of its event "optimizer", and ``looks``, ``new_data``, ``faults`` and ``end``.
    Processes are in the order of their numbers, which rise.
    """
    found = []
    for path in sorted((out / RECORDS).glob("*.jsonl"), key=lambda path: int(path.stem)):
        of_process: dict[int, dict[str, Any]] = {}
        run: dict[str, Any] = {}
        *lines, _ = path.read_text(encoding="utf-8").split("\n")  # a crash may tear the last line
        for event in map(json.loads, lines):
            kind, number = event.pop("event"), event.pop("optimizer", None)
            run.update(event.pop("run", {}))
            if kind == "optimizer":
                lists = {name: [] for name in _LISTS.values()}
                more = {"end": {}, "process": path.stem, "run": run}
                of_process[number] = {**event, **lists, **more}
            elif number in of_process and kind in _LISTS:
                of_process[number][_LISTS[kind]].append(event)
            elif number in of_process:
                of_process[number]["end"] = event
        found += [of_process[number] for number in sorted(of_process)]
    return found


# The lists of a record, by their events.
_LISTS = {"look": "looks", "new data": "new_data", "fault": "faults"}


def earlier(folder: Path, out: Path) -> list[dict[str, Any]]:
    """The records of an earlier run; raises UserError if it has none, or would be overwritten."""
    folder = folder.parent if folder.suffix == ".json" else folder
    if folder.resolve() == out.resolve():
        raise UserError(f"--against {folder}: --out must be another folder, or it is overwritten")
    found = records(folder)
    if not found:
        raise UserError(f"--against {folder}: there are no records of a watched run")
    return found


def calls_looked_at(found: list[dict[str, Any]]) -> list[int]:
    """The calls at which a run was looked at."""
    return sorted({look["call"] for record in found for look in record["looks"]})


def whole(
    found: list[dict[str, Any]], every: Optional[int] = None, calls: Optional[Sequence[int]] = None
) -> dict[str, Optional[float]]:
    """What watching took in the longest process; empty if none made an optimizer.

    Returns:
        The keys of `schedule.Budget.taken`; ``share``, of the time that the script took itself;
        ``promised``, see `schedule.promised`.
    """
    runs = [record["run"] for record in found if "watching" in record["run"]]
    if not runs:
        return {}
    run = max(runs, key=lambda run: run["seconds"])
    share = run["watching"] / (run["seconds"] - run["watching"])
    return {**run, "share": share, "promised": promised(every, calls)}
