"""Worker processes: a MindSpore mode is a setting of a whole process, so runs get their own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ms_adam.experiments import ExperimentError

_SECONDS_TO_END = 5


class WorkerError(ExperimentError):
    """A worker process failed; the message names its log."""


def work(module: str, name: str, job: dict, log_path: Path) -> Iterator[dict]:
    """Starts a worker, yields its events, and ends it whatever happens here.

    Args:
        module: What the process runs: a module whose `main` is `worker.serve`.
        name: What the worker is called in messages.
        job: What it is to do; plain values.
        log_path: Where to put what it prints.

    Raises:
        WorkerError: It failed or died.
    """
    command = [sys.executable, "-m", module]
    with open(log_path, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the worker
        )
    with process, _ended(process):
        with contextlib.suppress(BrokenPipeError):  # it died at once; its exit status tells
            process.stdin.write(json.dumps(job))
            process.stdin.close()
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "failed":
                raise WorkerError(
                    f"the {name} worker failed: {event['message']}\n  its log: {log_path}"
                )
            yield event
        status = process.wait()
    if status != 0:
        raise WorkerError(
            f"the {name} worker {_how_it_ended(status)} before it was done\n"
            f"  its log: {log_path}"
        )


@contextlib.contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    return f"was ended by signal {-status} ({signal.Signals(-status).name})"
