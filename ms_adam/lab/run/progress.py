"""Progress for people: bars in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Optional

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

_SECONDS_BETWEEN_LINES = 5
_LONGEST = 36  # so that the rest fits 80 columns
_SPEED_OVER_SECONDS = 600  # slow and quick runs take turns
_LEAST_SHARE = 0.02  # the first steps, which compile, say nothing about the time left


class ProgressDisplay(Progress):
    """Shows how far runs are. Use as a context manager; call it as `study.Progress`."""

    def __init__(self, console: Console):
        description = Column(max_width=_LONGEST, no_wrap=True, overflow="ellipsis")
        super().__init__(
            TextColumn("{task.description}", table_column=description),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=_SPEED_OVER_SECONDS,
            disable=not console.is_terminal,
        )
        self._bars: dict[Hashable, TaskID] = {}
        self._in_slot: dict[int, tuple[str, str]] = {}
        self._last_line, self._began = 0.0, time.monotonic()

    def stop(self) -> None:
        if not self.disable:  # rich 13 prints an empty line
            super().stop()

    def __call__(
        self,
        name: str,
        running: str,
        done: int,
        total: int,
        *,
        slot: Optional[int] = None,
        whole: Optional[tuple[float, float]] = None,
    ) -> None:
        """Shows how many of a run's steps are done.

        Args:
            name: The config's name.
            running: What is running, such as a mode.
            slot: For many short runs: the number of the bar that these runs share.
            whole: The work done and in all of all runs, in seconds by an estimate.
        """
        share = None if whole is None else whole[0] / max(whole[1], 1e-9)
        if self.disable:
            line = f"{name}, {running}: {done:,} of {total:,} steps"
            self._line(line, share, always=done in (0, total) and share is None)
            return
        if share is not None:
            self._bar("all runs", f"all runs, now {name}", *whole, f"{share:.0%}")
        if slot is not None and self._in_slot.get(slot) != (name, running):
            self._in_slot[slot] = (name, running)
            if slot in self._bars:
                self.reset(self._bars[slot], total=total)
        key = (name, running) if slot is None else slot
        description = f"{name}, {running}" if slot is None else running
        self._bar(key, description, done, total, f"{done:,}/{total:,} steps")

    def _bar(self, key: Hashable, description: str, done: float, total: float, amount: str) -> None:
        if key not in self._bars:
            self._bars[key] = self.add_task(description, total=total, amount=amount)
        self.update(self._bars[key], completed=done, description=description, amount=amount)

    def _line(self, line: str, share: Optional[float], always: bool) -> None:
        now = time.monotonic()
        if now - self._last_line < _SECONDS_BETWEEN_LINES and not always:
            return
        self._last_line = now
        if share is not None:
            line += f"; all runs: {share:.0%}"
            if share >= _LEAST_SHARE:
                line += f", {duration((1 - share) * (now - self._began) / share)} left"
        self.console.print(line)


def duration(seconds: float) -> str:
    """Formats a time: "40 s", "1 min 40 s", "95 min"."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{round(seconds / 60)} min"
