"""Starts the ranks of a data-parallel training with MindSpore's launcher, and waits for their end.

`msrun` starts a scheduler and the ranks, each a process with a log of its own. When a rank has
failed, msrun kills the others and waits up to 30 s for the scheduler; when the scheduler has
failed, msrun waits for the ranks, which wait for the scheduler. This module adds the rest: it finds
a free port, passes on the events of rank 0, names the rank that failed and its error, then ends at
once, and leaves no process behind, however this one ends.
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
from typing import Any, Optional, Union

from ms_adam.lab.errors import ExperimentError

JOB, EVENTS = "job.json", "events.jsonl"
DONE = "done"  # a rank's last word after its job
SCHEDULER = "scheduler"
_PR_SET_PDEATHSIG = 1  # of Linux, <sys/prctl.h>
# Runs a command that the kernel kills when this process ends. Popen's preexec_fn is not
# safe in a process with threads (Python's documentation of subprocess), and MindSpore has many.
_RUN_WITH_PARENT = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
SECONDS_TO_END = 5  # at most, after a rank is lost; mostly a margin for a busy machine
_SECONDS_BETWEEN_LOOKS = 0.1
# An environment variable of msrun and of every process that it starts, by which they are found:
# msrun's ranks lead sessions of their own, and have no parent any more when msrun is killed.
_MARK = "MS_ADAM_LAUNCH"


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
                *(sys.executable, "-c", _RUN_WITH_PARENT, str(os.getpid())),
                *(sys.executable, "-m", "mindspore.parallel.cluster.run"),
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
    with _all_ended(process, mark), open(folder / EVENTS, encoding="utf-8") as events:
        running, failure = True, None
        while running and failure is None:
            running = process.poll() is None
            for line in _complete_lines(events):
                yield json.loads(line)
            failure = _failure(folder, workers)
            if running:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    if failure is None and process.returncode != 0:
        failure = f"msrun ended with status {process.returncode}"
    if failure is not None:
        raise RankError(f"{failure}; all ranks were ended\n  their logs: {folder}")


def _complete_lines(stream) -> Iterator[str]:
    while True:
        at = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(at)
            return
        yield line


def _failure(folder: Path, workers: int) -> Optional[str]:
    """Returns the first failure in words; None if nothing has failed so far."""
    names = [SCHEDULER, *range(workers)]
    gone = [name for name in names if _is_gone(folder / f"process_{name}")]
    # Read after `gone`: a process that ends in order reports it first, the scheduler after all
    # ranks.
    ended = {name: folder / f"ended_{name}.json" for name in names}
    reports = {name: path for name, path in ended.items() if path.exists()}
    for name in sorted(reports, key=lambda name: reports[name].stat().st_mtime_ns):
        message = json.loads(reports[name].read_text(encoding="utf-8"))
        if message != DONE:
            return f"{_title(name, workers)} failed: {message}"
    if all(rank in reports for rank in range(workers)):
        return None
    for name in gone:
        if name not in reports:
            return f"{_title(name, workers)} was killed or crashed"
    log = (folder / "msrun.log").read_text(encoding="utf-8", errors="replace")
    if "exit with exception" in log:
        return f"a rank of {workers} ended before it could tell why"
    return None


def _title(name: Union[str, int], workers: int) -> str:
    return "the scheduler" if name == SCHEDULER else f"rank {name} of {workers}"


def _is_gone(path: Path) -> bool:
    """Returns whether the process that wrote its number into a file has ended."""
    if not path.exists():
        return False
    try:
        status = Path("/proc", path.read_text(encoding="utf-8"), "stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"  # its parent has not noticed yet


def free_port() -> int:
    """Returns a port that nobody listens at now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, even if that is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def _all_ended(process: subprocess.Popen, mark: str) -> Iterator[None]:
    """Ends msrun, the ranks and the scheduler at the end of the block, however that ends."""
    try:
        yield
    finally:
        process.kill()  # first, so that it starts no more
        process.wait()
        while left := _marked(mark):  # killed processes take a moment to end
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _marked(mark: str) -> list[int]:
    """Returns the processes of a launch."""
    wanted, found = f"{_MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended, or belongs to another user
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
