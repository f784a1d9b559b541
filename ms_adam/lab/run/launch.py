"""Starts the ranks of a data-parallel training with MindSpore's launcher, and waits for their end.

`msrun` starts a scheduler and the ranks, each a process with a log of its own. When a rank has
failed, msrun kills the others and waits up to 30 s for the scheduler; when the scheduler has
failed, msrun waits for the ranks, which wait for the scheduler. This module adds the rest: it finds
a free port, passes on the events of rank 0, names the rank that failed and its error, ends at once
after a failure or when all ranks are done (the scheduler would take seconds more), and leaves no
process behind, however this one ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import psutil  # which msrun needs too

from ms_adam.lab.errors import ExperimentError

JOB, EVENTS = "job.json", "events.jsonl"
DONE = "done"  # a rank's last word after its job
SCHEDULER = "scheduler"
SECONDS_TO_END = 5  # at most, after a rank is lost; mostly a margin for a busy machine
_SECONDS_BETWEEN_LOOKS = 0.1
# An environment variable of msrun and of every process that it starts, by which they are found:
# msrun's ranks lead sessions of their own, and have no parent any more when msrun is killed.
_MARK = "MS_ADAM_LAUNCH"
MSRUN = "MS_ADAM_MSRUN"  # the variable with msrun's number, for the processes that it starts
# Popen's preexec_fn could call `end_with_parent` too, but is not safe in a process with threads
# (Python's documentation of subprocess), and MindSpore has many.
_MSRUN = f"""
import os, runpy, sys
from ms_adam.lab.run.launch import end_with_parent
end_with_parent(int(sys.argv.pop(1)))
os.environ["{MSRUN}"] = str(os.getpid())
runpy.run_module("mindspore.parallel.cluster.run", run_name="__main__")
"""


class RankError(ExperimentError):
    """A rank failed; the message names it, its error, and its log."""


def launch(
    workers: int, module: str, job: dict, folder: Path, environment: Optional[dict[str, str]] = None
) -> Iterator[dict[str, Any]]:
    """Runs a module in several ranks and yields the events of rank 0.

    Args:
        workers: Number of ranks.
        module: The module that each runs; its main function is `rank.serve`.
        job: Plain values, the same for all ranks.
        folder: For the logs; created, and cleared of those of an earlier launch.
        environment: Variables besides those of this process.

    Raises:
        RankError: A rank failed or was killed. All others have ended then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.log", "ended_*.json", "process_*", EVENTS):
        for old in folder.glob(pattern):
            old.unlink()
    (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
    (folder / EVENTS).touch()
    mark = uuid.uuid4().hex
    variables = {**os.environ, **(environment or {}), _MARK: mark}
    # msrun calls "python", which must be this one.
    variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    with open(folder / "msrun.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _MSRUN, str(os.getpid())),
                f"--worker_num={workers}",
                f"--local_worker_num={workers}",
                f"--master_port={free_port()}",
                f"--log_dir={folder}",
                "--join=True",
                f"--tail_worker_log={workers}",  # no rank's: by default each log is also msrun's
                *("python", "-m", module, str(folder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=variables,
            start_new_session=True,
        )
    try:
        with open(folder / EVENTS, encoding="utf-8") as events:
            running, outcome, unread = True, None, ""
            while running and outcome is None:
                running = process.poll() is None
                outcome = _outcome(folder, workers)
                *lines, unread = (unread + events.read()).split("\n")
                yield from map(json.loads, lines)
                if running and outcome is None:
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        process.kill()  # first, so that it starts no more
        status = process.wait()
        while left := _marked(mark):  # killed processes take a moment to end
            for one in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    if outcome != DONE:
        failure = outcome or f"msrun ended with status {status}"
        raise RankError(f"{failure}; all ranks were ended\n  their logs: {folder}")


def _marked(mark: str) -> list[psutil.Process]:
    """Returns the processes of a launch."""
    found = psutil.process_iter(["environ"])  # None of those that it may not read
    return [one for one in found if (one.info["environ"] or {}).get(_MARK) == mark]


def _outcome(folder: Path, workers: int) -> Optional[str]:
    """Returns `DONE` if every rank has done its job, or the first failure in words, or None."""
    ranks = {str(rank): f"rank {rank} of {workers}" for rank in range(workers)}
    titles = {SCHEDULER: "the scheduler", **ranks}
    gone = [name for name in titles if _is_gone(folder / f"process_{name}")]
    # Read after `gone`: a process that ends in order reports it first, the scheduler after all
    # ranks.
    paths = sorted(folder.glob("ended_*.json"), key=lambda path: path.stat().st_mtime_ns)
    reports = {path.stem[len("ended_") :]: json.loads(path.read_text("utf-8")) for path in paths}
    for name, message in reports.items():
        if message != DONE:
            return f"{titles[name]} failed: {message}"
    if reports.keys() >= ranks.keys():
        return DONE
    for name in gone:
        if name not in reports:
            return f"{titles[name]} was killed or crashed"
    log = (folder / "msrun.log").read_text(encoding="utf-8", errors="replace")
    if "exit with exception" in log:
        return f"a rank of {workers} ended before it could tell why"
    return None


def _is_gone(path: Path) -> bool:
    """Returns whether the process that wrote its number into a file has ended."""
    if not path.exists():
        return False
    try:
        status = psutil.Process(int(path.read_text(encoding="utf-8"))).status()
    except psutil.NoSuchProcess:
        return True
    return status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)  # its parent has not noticed yet


def free_port() -> int:
    """Returns a port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends, even if that is killed.

    Args:
        parent: The parent's number. If that has ended already, this process ends too.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of Linux, <sys/prctl.h>
    if os.getppid() != parent:
        os._exit(1)
