"""Progress of figures: a bar for each run at work and one for the whole, with the time left."""

from __future__ import annotations

import time
from typing import Optional, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

_SECONDS_BETWEEN_LINES = 10
_SHARE_THAT_TELLS = 0.02
_LONGEST = 36  # so that the rest fits 80 columns
_SPEED_OVER_SECONDS = 600  # runs of different optimizers take turns


class Told(Protocol):
    """What a runner tells while it is at work. Times are estimates in seconds of one worker."""

    def whole(self, seconds: float, runs: int, cached: int, workers: int) -> None:
        """The work that is left when it begins, and how many of all runs are in the cache."""

    def run(
        self, worker: int, figure: str, label: str, done: int, steps: int, seconds: float
    ) -> None:
        """The steps of a worker's run that are done, and what they take."""


class Bars:
    """Shows it. Use as a context manager; where there is no terminal, a line now and then."""

    def __init__(self, console: Console):
        self._console = console
        self._seconds, self._finished = 0.0, 0.0
        self._current: dict[int, tuple[str, str]] = {}  # of each worker, the run that it is at
        self._of_current: dict[int, float] = {}
        self._started = self._last_line = time.monotonic()
        self._bars: Optional[Progress] = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn(
                    "{task.description}",
                    table_column=Column(max_width=_LONGEST, no_wrap=True, overflow="ellipsis"),
                ),
                BarColumn(bar_width=12),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left:"),
                TimeRemainingColumn(),
                console=console,
                speed_estimate_period=_SPEED_OVER_SECONDS,
            )

    def __enter__(self) -> Bars:
        if self._bars:
            self._bars.start()
            self._all = self._bars.add_task("all runs", total=None)
        return self

    def __exit__(self, *_) -> None:
        if self._bars:
            self._bars.stop()

    def whole(self, seconds: float, runs: int, cached: int, workers: int) -> None:
        self._seconds = seconds
        self._started = time.monotonic()
        self._console.print(
            f"{runs} runs, of which {cached} are done already; about "
            f"{minutes(seconds / workers)}, {workers} at a time"
        )
        if self._bars:
            self._bars.update(self._all, total=max(seconds, 1e-9))
            self._of = [self._bars.add_task("starting", total=None) for _ in range(workers)]

    def run(
        self, worker: int, figure: str, label: str, done: int, steps: int, seconds: float
    ) -> None:
        if (figure, label) != self._current.get(worker):
            self._finished += self._of_current.get(worker, 0.0)
            self._current[worker] = (figure, label)
            if self._bars:
                self._bars.reset(self._of[worker], total=steps, description=label)
                self._bars.update(self._all, description=f"all runs, now {figure}")
        self._of_current[worker] = seconds
        at = self._finished + sum(self._of_current.values())
        if self._bars:
            self._bars.update(self._of[worker], completed=done)
            self._bars.update(self._all, completed=at)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            share = at / max(self._seconds, 1e-9)
            # What is left, at the speed so far; a first step, which compiles, tells no speed.
            left = (
                f", {minutes((1 - share) * (now - self._started) / share)} left"
                if share >= _SHARE_THAT_TELLS
                else ""
            )
            self._console.print(
                f"{figure}: {label}, {done:,} of {steps:,} steps; all runs: {share:.0%}{left}"
            )


def minutes(seconds: float) -> str:
    """A time for people: "40 s", "1 min 40 s", "95 min"."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{round(seconds / 60)} min"
