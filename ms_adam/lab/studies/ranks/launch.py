"""Starts the ranks of a data-parallel training with MindSpore's launcher, and waits for their end.

`msrun` starts a scheduler and the ranks, each a process that prints into a log of its own. When a
rank has failed it kills the others, and waits up to 30 s for the scheduler; when the scheduler has
failed it waits for the ranks, which wait for the scheduler. What it does not do is done here: to
find a free port, to hand on what rank 0 tells, to say which rank failed and how, to end at once
then, and to leave no process behind, however this one ends.
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

from ms_adam.lab.run import ExperimentError

JOB, EVENTS = "job.json", "events.jsonl"
DONE = "done"  # the last word of a rank that did its job
SCHEDULER = "scheduler"
_PR_SET_PDEATHSIG = 1  # of Linux, <sys/prctl.h>
# Runs a command that the kernel kills when this process ends. Not with Popen's preexec_fn: it forks,
# and MindSpore's handlers of a fork can crash a process that has computed.
_RUN_WITH_PARENT = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
SECONDS_TO_END = 5  # at most, after a rank is lost; nearly all for a machine that is busy
_SECONDS_BETWEEN_LOOKS = 0.1
# In the environment of msrun and of all that it starts. By what else should they be known? msrun's
# ranks lead sessions of their own, and have no parent any more when it is killed.
_MARK = "MS_ADAM_LAUNCH"


class RankError(ExperimentError):
    """A rank failed; the message names it, what it said last, and its log."""


def launch(
    workers: int, module: str, job: dict, folder: Path, environment: Optional[dict[str, str]] = None
) -> Iterator[dict[str, Any]]:
    """Runs a module in several ranks and yields what rank 0 tells.

    Args:
        workers: How many ranks.
        module: What each runs; its `main` is `rank.serve`.
        job: What they are to do, plain values; the same for all.
        folder: Where the logs go; made, and emptied of those of an earlier launch.
        environment: Variables besides those of this process.

    Raises:
        RankError: A rank failed or was killed. All others have ended then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (
        *folder.glob("*.log"),
        *folder.glob("ended_*.json"),
        *folder.glob("process_*"),
        folder / EVENTS,
    ):
        old.unlink(missing_ok=True)
    (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
    (folder / EVENTS).touch()
    command = [
        *(sys.executable, "-c", _RUN_WITH_PARENT, str(os.getpid())),
        *(sys.executable, "-m", "mindspore.parallel.cluster.run"),
        f"--worker_num={workers}",
        f"--local_worker_num={workers}",
        f"--master_port={free_port()}",
        f"--log_dir={folder}",
        "--join=True",
        f"--tail_worker_log={workers}",  # no rank's: by default each log is also msrun's
        "python",
        "-m",
        module,
        str(folder),
    ]
    # msrun calls "python": let it be this one. Threads: ranks share the cores.
    mark = uuid.uuid4().hex
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        **(environment or {}),
        _MARK: mark,
    }
    with open(folder / "msrun.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
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
            for line in _whole_lines(events):
                yield json.loads(line)
            failure = _failure(folder, workers)
            if running:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    if failure is None and process.returncode != 0:
        failure = f"msrun ended with status {process.returncode}"
    if failure is not None:
        raise RankError(f"{failure}; all ranks were ended\n  their logs: {folder}")


def _whole_lines(stream) -> Iterator[str]:
    while True:
        at = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(at)
            return
        yield line


def _failure(folder: Path, workers: int) -> Optional[str]:
    """What has gone wrong first; None while nothing has."""
    names = [SCHEDULER, *range(workers)]
    gone = [name for name in names if _is_gone(folder / f"process_{name}")]
    # Only now: what ends in order says so before it is gone; the scheduler after all others.
    ended = {name: folder / f"ended_{name}.json" for name in names}
    said = {name: path for name, path in ended.items() if path.exists()}
    for name in sorted(said, key=lambda name: said[name].stat().st_mtime_ns):
        words = json.loads(said[name].read_text(encoding="utf-8"))
        if words != DONE:
            return f"{_called(name, workers)} failed: {words}"
    if all(rank in said for rank in range(workers)):
        return None
    for name in gone:
        if name not in said:
            return f"{_called(name, workers)} was killed or crashed"
    log = (folder / "msrun.log").read_text(encoding="utf-8", errors="replace")
    if "exit with exception" in log:
        return f"a rank of {workers} ended before it could tell why"
    return None


def _called(name, workers: int) -> str:
    return "the scheduler" if name == SCHEDULER else f"rank {name} of {workers}"


def _is_gone(path: Path) -> bool:
    """Whether the process that has written its number into a file is there no more."""
    if not path.exists():
        return False
    try:
        status = Path("/proc", path.read_text(encoding="utf-8"), "stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"  # what its parent has not noticed yet


def free_port() -> int:
    """A port that nobody listens at now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, which may be killed itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def _all_ended(process: subprocess.Popen, mark: str) -> Iterator[None]:
    """However this ends, neither msrun nor a rank nor the scheduler is left."""
    try:
        yield
    finally:
        process.kill()  # first, so that it starts nobody any more
        process.wait()
        while left := _marked(mark):  # the killed take a moment to go
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _marked(mark: str) -> list[int]:
    """The processes of a launch."""
    wanted, found = f"{_MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended, or is another user's
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
