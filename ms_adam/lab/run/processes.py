"""Worker processes: a MindSpore mode is a setting of a whole process, so runs get their own."""

from __future__ import annotations

import contextlib
import fcntl
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
    """What one worker does; see `ms_adam.lab.run.worker`."""

    call: str  # "module:function", or "module" for its function `work`
    name: str  # the worker's name in messages
    content: dict[str, Any]  # plain values that the function is given
    log: Path  # the file for what the process prints


def start(job: Job) -> subprocess.Popen:
    """Starts the process of a job, which writes its events to standard output."""
    with open(job.log, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ms_adam.lab.run.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
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

    Its standard input is closed, unless it will be `asked` for more.
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
        """Waits for the next event; raises WorkerError if the worker failed, died, or ended."""
        for event in self.events():
            return event
        raise self._error("ended too early")

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields the events until the worker has ended; raises WorkerError if it failed or died."""
        for line in iter(self._process.stdout.readline, ""):
            event = json.loads(line)
            if event["event"] == "failed":
                raise self._error(f"failed: {event['message']}")
            yield event
        status = self._process.wait()
        if status < 0:
            name = signal.Signals(-status).name
            raise self._error(f"was ended by signal {-status} ({name}) before it was done")
        if status > 0:
            raise self._error(f"ended with exit status {status} before it was done")

    def _close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _error(self, what: str) -> WorkerError:
        return WorkerError(f"the {self._job.name} worker {what}\n  its log: {self._job.log}")


def run_jobs(
    jobs: Sequence[Job], at_a_time: int = 1, *, keep_going: bool = False
) -> Iterator[tuple[int, Union[dict[str, Any], WorkerError]]]:
    """Runs jobs in processes of their own, and yields their events as they come.

    Jobs start in their order, `at_a_time` at once. All processes are ended when the iteration ends,
    however it ends; use contextlib.closing if it may be left early.

    Yields:
        The number of a job, and an event of its worker; or, under `keep_going`, its WorkerError.

    Raises:
        WorkerError: A worker failed or died; the others are ended, unless `keep_going`.
    """
    told: queue.SimpleQueue = queue.SimpleQueue()

    def follow(number: int, worker: Worker) -> None:
        try:
            for event in worker.events():
                told.put((number, event))
            told.put((number, None))
        except Exception as error:  # for the thread that reads the queue
            told.put((number, error))

    waiting = enumerate(jobs)
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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Locks a file for this process. The kernel releases the locks of a process that died.

    Yields:
        Whether this process has the lock; False if another process has it.
    """
    with open(path, "wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def work(call: str, name: str, job: dict[str, Any], log: Path) -> Iterator[dict[str, Any]]:
    """Runs one job in a process, yields its events, and ends it whatever happens here."""
    with Worker(Job(call, name, job, log)) as worker:
        yield from worker.events()
