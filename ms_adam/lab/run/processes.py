"""Worker processes: a MindSpore mode is a setting of a whole process, so runs get their own."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ms_adam.lab.run import ExperimentError

_SECONDS_TO_END = 5


class WorkerError(ExperimentError):
    """A worker process failed; the message names its log."""


class Worker:
    """A process that does one job. Use as a context manager, which ends it whatever happens.

    Args:
        module: What the process runs: a module whose `main` is `worker.serve`.
        name: What the worker is called in messages.
        job: What it is to do; plain values.
        log_path: Where to put what it prints.
    """

    def __init__(self, module: str, name: str, job: dict, log_path: Path):
        self._module, self._name, self._job, self._log_path = module, name, job, log_path

    def __enter__(self) -> Worker:
        with open(self._log_path, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C reaches this process alone, which ends the worker
            )
        # A process that died at once takes no job; its exit status tells.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stream:
            stream.write(json.dumps(self._job))
        return self

    def __exit__(self, *_) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def events(self) -> Iterator[dict]:
        """What it tells, until it has ended.

        Raises:
            WorkerError: It failed or died.
        """
        with self._process.stdout as lines:
            for line in lines:
                event = json.loads(line)
                if event["event"] == "failed":
                    raise WorkerError(
                        f"the {self._name} worker failed: {event['message']}\n"
                        f"  its log: {self._log_path}"
                    )
                yield event
        status = self._process.wait()
        if status != 0:
            raise WorkerError(
                f"the {self._name} worker {_how_it_ended(status)} before it was done\n"
                f"  its log: {self._log_path}"
            )


def work(module: str, name: str, job: dict, log_path: Path) -> Iterator[dict]:
    """Starts a `Worker`, yields its events, and ends it whatever happens here."""
    with Worker(module, name, job, log_path) as worker:
        yield from worker.events()


def work_side_by_side(workers: Sequence[Worker]) -> Iterator[tuple[int, dict]]:
    """Starts several, and yields the events of all as they come, each with its worker's number.

    Raises:
        WorkerError: One failed or died; the others are ended.
    """
    told: queue.SimpleQueue = queue.SimpleQueue()  # of (number, event), or what ended the events

    def follow(number: int, worker: Worker) -> None:
        try:
            for event in worker.events():
                told.put((number, event))
            told.put(None)
        except Exception as error:  # for the thread that reads the queue, which raises it
            told.put(error)

    # Processes are ended first: with them end the events that the threads wait for.
    with contextlib.ExitStack() as threads, contextlib.ExitStack() as processes:
        for number, worker in enumerate(workers):
            processes.enter_context(worker)
            thread = threading.Thread(target=follow, args=(number, worker))
            thread.start()
            threads.callback(thread.join)
        running = len(workers)
        while running:
            found = told.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                running -= 1
            else:
                yield found


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    return f"was ended by signal {-status} ({signal.Signals(-status).name})"
