"""When calls are looked at, so that watching takes a small share of the run."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Callable, Optional

PROMISED = 0.10  # at most this share of the time that the script takes itself
UNLOOKED = 0.01  # likewise if no call is looked at
SHARE = (
    0.09  # at which looks stop: the end, and a look that takes longer than the last, have the rest
)
DENSE = 128  # looks, after which they become fewer
IDLE = 3  # looks at graphs without an optimizer, after which they become rare
FIRST = 8  # callees whose first call is looked at whatever that costs


class Budget:
    """The time that all of watching has taken in this process, in seconds.

    Clocks at the boundary of our code take `ours`. Calls that wrappers only pass on are too short
    for that: they are counted, and `passing` lists who counts them.

    In PyNative mode, looks wait for work that the script has given to the device. It has to be done
    anyway, but meanwhile the script cannot run ahead. Of a wait at most the time of a step counts,
    which is all that could have run beside it; the first wait, for kernels to be built, does not.

    Args:
        every: None, or look at every n-th call whatever it costs; 0: at none.
        calls: None, or the calls to look at, from 1.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        every: Optional[int],
        calls: Optional[Collection[int]],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.every, self.calls = every, None if calls is None else set(calls)
        self.clock, self.started = clock, clock()
        self.ours = 0.0  # all that clocks have seen, waits too
        self.entered = 0.0  # when the clock that runs now was started; `ours` has it at its end
        self.waiting = self.waited = 0.0  # waits; what of them counts
        self.looking = 0.0  # looks, with the waits that count
        self.once = 0.0  # what does not grow with the run: start, first looks, end
        self.passing: list[Any] = []  # each has `passed`, a number of calls, and `each`, seconds
        self.first = 0  # callees whose first call was looked at
        self.latest = 0.0  # seconds of the latest look

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts what happens once."""
        entered = self.clock()
        try:
            yield
        finally:
            self.happened(self.clock() - entered)

    def happened(self, seconds: float) -> None:
        """Counts seconds of what happens once."""
        self.ours += seconds
        self.once += seconds

    def watching(self) -> float:
        """Seconds that all of watching has taken."""
        passing = sum(one.passed * one.each for one in self.passing)
        return self.ours - self.waiting + self.waited + passing

    def taken(self) -> dict[str, float]:
        """What has been taken so far, of how many seconds."""
        found = {
            "seconds": self.clock() - self.started,
            "watching": self.watching(),
            "looking": self.looking,
            "waiting": self.waiting,
            "once": self.once,
        }
        return {name: round(seconds, 6) for name, seconds in found.items()}


class Schedule:
    """The calls of one callee: an optimizer that Python calls, or a compiled graph."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.calls = self.looks = self.idle = 0
        self.cost, self.following = 0.0, 1
        # That the next call is looked at: gradients were waited for, perhaps those of another one.
        self.decided = False
        self._second = self._latest = 0.0
        self._step = 0.0  # seconds from the call before to this one

    def due(self) -> bool:
        """Whether the next call is looked at."""
        return self.decided or self.allowed()

    def allowed(self) -> bool:
        """Whether the next call may be looked at, after what watching has taken until now."""
        budget, coming = self.budget, self.calls + 1
        if self.idle >= IDLE and coming < self.following:
            return False
        if budget.calls is not None:
            return coming in budget.calls
        if budget.every is not None:
            return budget.every > 0 and (coming - 1) % budget.every == 0
        if not self.looks and budget.first < FIRST and not self.decided:
            return True
        cost = self.cost if self.looks else budget.latest
        watching = budget.watching()
        own = budget.clock() - budget.started - watching
        return coming >= self.following and watching + cost <= SHARE * own

    def begin(self) -> None:
        """Counts a call that begins."""
        self.calls += 1
        self.decided = False
        budget = self.budget
        # The script has to wait for its own work without us, too.
        now = budget.entered - (budget.ours - budget.waiting)
        self._step = now - self._latest if self.calls > 1 else 0.0
        self._latest = now
        if self.calls == 2:
            self._second = now

    def waited(self, seconds: float) -> None:
        """Counts a wait for the script's own work before the last call, which is not looked at."""
        self.budget.waited += min(seconds, self._step)

    def looked(self, cost: float, found: bool, waited: float = 0.0) -> None:
        """Counts a look at the last call, and how long it waited for the script's own work."""
        budget, waited = self.budget, min(waited, self._step)
        self.cost = budget.latest = cost + waited
        budget.looking += self.cost
        budget.waited += waited
        if not self.looks and budget.first < FIRST:
            budget.first += 1
            budget.once += self.cost
        self.looks += 1
        self.idle = 0 if found else self.idle + 1
        rare = max(0, self.looks - DENSE) // (DENSE // 2)
        self.following = self.calls + (self.calls if self.idle >= IDLE else 2**rare)

    def period(self) -> Optional[float]:
        """Seconds between calls, without looks and without the first call, which compiles."""
        return (self._latest - self._second) / (self.calls - 2) if self.calls > 2 else None


def promised(every: Optional[int], calls: Optional[Collection[int]]) -> Optional[float]:
    """The share that watching keeps to in a run that is long enough; None if costs do not count."""
    if calls is not None or every:
        return None
    return PROMISED if every is None else UNLOOKED
