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
from typing import Any, NamedTuple, Union

from ms_adam.lab.errors import ExperimentError

_SECONDS_TO_END = 5


class WorkerError(ExperimentError):
    """A worker process failed; the message names its log."""


class Job(NamedTuple):
    """What one worker does.

    Attributes:
        call: "module:function", or "module" for its function `work`; see `ms_adam.lab.run.worker`.
        name: The worker's name in messages.
        content: Plain values that the function is given.
        log: The file for what the process prints.
    """

    call: str
    name: str
    content: dict[str, Any]
    log: Path


def start(job: Job, *, events_to_log: bool = False) -> subprocess.Popen:
    """Starts the process of a job.

    Args:
        job: What it does.
        events_to_log: Whether its events go to the log too, for a parent that does not listen.
    """
    with open(job.log, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ms_adam.lab.run.worker"],
            stdin=subprocess.PIPE,
            stdout=log if events_to_log else subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the worker
        )
    _send(process, {"call": job.call, "job": job.content})
    return process


def _send(process: subprocess.Popen, content: Any) -> None:
    # A process that died at once takes nothing; its exit status tells.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(content) + "\n")
        process.stdin.flush()


class Worker:
    """A process that does one job. Use as a context manager, which ends it whatever happens.

    Args:
        job: What it does.
        asked: Whether more requests follow by `ask`; otherwise its standard input is closed.
    """

    def __init__(self, job: Job, asked: bool = False):
        self._job, self._asked = job, asked

    def __enter__(self) -> Worker:
        self._process = start(self._job)
        if not self._asked:
            self._close()
        return self

    def __exit__(self, *_) -> None:
        self._close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def ask(self, request: Any) -> dict[str, Any]:
        """Sends a request and returns the event that answers it; see `Events.requests`."""
        _send(self._process, request)
        return self.event()

    def event(self) -> dict[str, Any]:
        """Waits for the next event.

        Raises:
            WorkerError: The worker failed, died, or ended.
        """
        for event in self.events():
            return event
        raise WorkerError(
            f"the {self._job.name} worker ended too early\n  its log: {self._job.log}"
        )

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields the events until the worker has ended.

        Raises:
            WorkerError: It failed or died.
        """
        for line in iter(self._process.stdout.readline, ""):
            event = json.loads(line)
            if event["event"] == "failed":
                raise self._error(f"failed: {event['message']}")
            yield event
        status = self._process.wait()
        if status != 0:
            raise self._error(f"{_how_it_ended(status)} before it was done")

    def _close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _error(self, what: str) -> WorkerError:
        return WorkerError(f"the {self._job.name} worker {what}\n  its log: {self._job.log}")


Found = Union[dict[str, Any], WorkerError]


def run_jobs(
    jobs: Sequence[Job], at_a_time: int = 1, *, keep_going: bool = False
) -> Iterator[tuple[int, Found]]:
    """Runs jobs in processes of their own, and yields their events as they come.

    All processes are ended when the iteration ends, however it ends; use contextlib.closing if it
    may be left early.

    Args:
        jobs: What to do; started in this order.
        at_a_time: How many processes run at once.
        keep_going: Whether the failure of a worker leaves the others running.

    Yields:
        The number of a job in `jobs`, and an event of its worker; or, under `keep_going`, its
        WorkerError.

    Raises:
        WorkerError: A worker failed or died; the others are ended.
    """
    told: queue.SimpleQueue = queue.SimpleQueue()

    def follow(number: int, worker: Worker) -> None:
        error = None
        try:
            for event in worker.events():
                told.put((number, event))
        except Exception as raised:  # for the thread that reads the queue
            error = raised
        told.put((number, error))

    waiting, running = iter(list(enumerate(jobs))), 0
    # Processes are ended first: with them end the events that the threads wait for.
    with contextlib.ExitStack() as threads, contextlib.ExitStack() as processes:

        def start_next() -> int:
            for number, job in waiting:
                worker = processes.enter_context(Worker(job))
                thread = threading.Thread(target=follow, args=(number, worker))
                thread.start()
                threads.callback(thread.join)
                return 1
            return 0

        running = sum(start_next() for _ in range(at_a_time))
        while running:
            number, found = told.get()
            if isinstance(found, dict):
                yield number, found
                continue
            if isinstance(found, WorkerError) and keep_going:
                yield number, found
            elif found is not None:
                raise found
            running += start_next() - 1


def work(call: str, name: str, job: dict[str, Any], log: Path) -> Iterator[dict[str, Any]]:
    """Runs one job in a process, yields its events, and ends it whatever happens here."""
    with Worker(Job(call, name, job, log)) as worker:
        yield from worker.events()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    return f"was ended by signal {-status} ({signal.Signals(-status).name})"
