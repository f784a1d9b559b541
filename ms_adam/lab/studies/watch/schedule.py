"""When calls are looked at, so that looking takes a small share of the run."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Optional

SHARE = 0.07  # of the run's time that looks may take; what is not counted here has the rest
DENSE = 128  # looks, after which they become fewer
IDLE = 3  # looks at which nothing stepped, after which they become rare


class Budget:
    """The time that looks have taken in this process.

    Args:
        every: None, or look at every n-th call whatever it costs; 0: at none.
        calls: None, or the calls to look at, from 1.
    """

    def __init__(self, every: Optional[int], calls: Optional[Collection[int]]):
        self.every, self.calls = every, None if calls is None else set(calls)
        self.started, self.spent = time.perf_counter(), 0.0

    def allows(self, call: int, schedule: Schedule) -> bool:
        """Whether a call of a schedule may be looked at."""
        if self.calls is not None:
            return call in self.calls
        if self.every is not None:
            return self.every > 0 and (call - 1) % self.every == 0
        if not schedule.looks:
            return True
        elapsed = time.perf_counter() - self.started
        return call >= schedule.following and self.spent + schedule.cost <= SHARE * elapsed


class Schedule:
    """The calls of one callee: an optimizer that Python calls, or a compiled graph."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.calls = self.looks = self.idle = 0
        self.cost, self.following = 0.0, 1
        self._second = self._latest = 0.0

    def due(self) -> bool:
        """Whether the next call is looked at."""
        coming = self.calls + 1
        if self.idle >= IDLE and coming < self.following:
            return False
        return self.budget.allows(coming, self)

    def begin(self) -> None:
        """Counts a call that begins."""
        self.calls += 1
        self._latest = time.perf_counter() - self.budget.spent
        if self.calls == 2:
            self._second = self._latest

    def looked(self, cost: float, stepped: bool) -> None:
        """Counts a look at the last call."""
        self.looks += 1
        self.cost = cost
        self.budget.spent += cost
        self.idle = 0 if stepped else self.idle + 1
        rare = max(0, self.looks - DENSE) // (DENSE // 2)
        self.following = self.calls + (self.calls if self.idle >= IDLE else 2**rare)

    def period(self) -> Optional[float]:
        """Seconds between calls, without looks and without the first call, which compiles."""
        return (self._latest - self._second) / (self.calls - 2) if self.calls > 2 else None
