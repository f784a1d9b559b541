"""Starts the ranks of a data-parallel training with MindSpore's launcher, and waits for their end.

`msrun` starts a scheduler and the ranks, each a process that prints into a log of its own, and looks
every second whether one has failed; then it kills the others. What it does not do is done here: it
finds a free port, hands on what rank 0 tells, says which rank failed and how, and leaves no process
behind, however this one ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from ms_adam.experiments import ExperimentError

JOB, EVENTS = "job.json", "events.jsonl"
# After a rank is lost msrun looks within 1 s, and kills the others; then the scheduler is given this
# long to notice. All in all the command ends within SECONDS_TO_END.
SECONDS_TO_END = 30
_SECONDS_BETWEEN_LOOKS = 0.1


class RankError(ExperimentError):
    """A rank failed; the message names it, what it said last, and its log."""


def launch(workers: int, module: str, job: dict, folder: Path,
           environment: Optional[dict[str, str]] = None) -> Iterator[dict[str, Any]]:
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
    for old in (*folder.glob("*.log"), *folder.glob("ended_*.json"), folder / EVENTS):
        old.unlink(missing_ok=True)
    (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
    (folder / EVENTS).touch()
    command = [sys.executable, "-m", "mindspore.parallel.cluster.run",
               f"--worker_num={workers}", f"--local_worker_num={workers}",
               f"--master_port={free_port()}", f"--log_dir={folder}", "--join=True",
               "python", "-m", module, str(folder)]
    # msrun calls "python": let it be this one. Threads: ranks share the cores.
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
                 **(environment or {})}
    with open(folder / "msrun.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env=variables, start_new_session=True)
    with _all_ended(process), open(folder / EVENTS, encoding="utf-8") as events:
        lost: Optional[float] = None
        while True:
            running = process.poll() is None
            for line in _whole_lines(events):
                yield json.loads(line)
            if not running:
                break
            if lost is None and "exit with exception" in _text(folder / "msrun.log"):
                lost = time.monotonic()
            if lost is not None and time.monotonic() - lost > SECONDS_TO_END:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    ended = [_ended(folder, rank) for rank in range(workers)]
    if process.returncode != 0 or any(end != "done" for end in ended):
        raise RankError(_what_failed(folder, ended))


def _whole_lines(stream) -> Iterator[str]:
    while True:
        at = stream.tell()
        line = stream.readline()
        if not line.endswith("\n"):
            stream.seek(at)
            return
        yield line


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _ended(folder: Path, rank: int) -> Optional[str]:
    """What a rank wrote as its last act: "done", an error's message, or nothing at all."""
    path = folder / f"ended_{rank}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _what_failed(folder: Path, ended: list[Optional[str]]) -> str:
    said = [(rank, end) for rank, end in enumerate(ended) if end not in (None, "done")]
    if said:
        rank, message = said[0]
        words = f"rank {rank} of {len(ended)} failed: {message}"
    else:
        silent = [rank for rank, end in enumerate(ended) if end is None]
        killed = _killed(folder, silent)
        words = (f"rank {killed} of {len(ended)} was killed" if killed is not None
                 else f"of {len(ended)} ranks, {', '.join(map(str, silent))} ended without a word")
        words += "; the others were ended"
    return f"{words}\n  the ranks' logs: {folder}"


def _killed(folder: Path, ranks: list[int]) -> Optional[int]:
    """Which rank msrun found dead first: its log names the process, each rank has told its own."""
    found = [word for line in _text(folder / "msrun.log").splitlines()
             if "exit with exception" in line and "Worker process" in line
             for word in line.split("Worker process", 1)[1].split()[:1]]
    for rank in ranks:
        path = folder / f"process_{rank}"
        if found and path.exists() and path.read_text(encoding="utf-8") == found[0]:
            return rank
    return None


def free_port() -> int:
    """A port that nobody listens at now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _all_ended(process: subprocess.Popen) -> Iterator[None]:
    """msrun's ranks lead process groups of their own: whoever is left of its session is killed."""
    try:
        yield
    finally:
        _kill_session(process.pid)
        process.wait()


def _kill_session(session: int) -> None:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if os.getsid(int(entry.name)) == session:
                os.kill(int(entry.name), signal.SIGKILL)
