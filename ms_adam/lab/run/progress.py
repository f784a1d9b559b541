"""Progress for people: bars in a terminal, a line every few seconds where there is none."""

from __future__ import annotations

import time
from typing import Optional

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 5


class ProgressDisplay:
    """Shows how far runs are. Use as a context manager; call it as `mode_runs.Progress`.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console):
        self._console = console
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._last_line = 0.0
        self._bars: Optional[Progress] = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("steps"),
                TimeElapsedColumn(),
                TextColumn("left:"),
                TimeRemainingColumn(),
                console=console,
            )

    def __enter__(self) -> ProgressDisplay:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, experiment: str, running: str, done: int, total: int) -> None:
        if self._bars is None:
            self._line(experiment, running, done, total)
            return
        key = (experiment, running)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(f"{experiment}, {running}", total=total)
        self._bars.update(self._tasks[key], completed=done)

    def _line(self, experiment: str, running: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done in (0, total) or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._console.print(f"{experiment}, {running}: {done:,} of {total:,} steps")
