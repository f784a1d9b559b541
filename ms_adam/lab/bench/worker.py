"""The process of one contender in one case.

Requests: [shapes, rows], upon which it builds and compiles; then numbers of steps to time, again
and again. Its events:

    {"event": "ready"}                                              imports are done
    {"event": "built", "compile_s", "peak_bytes", "state_bytes", "state_on", "device_target"}
    {"event": "timed", "ms": [...], "empty_ms": ...}
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Callable

from ms_adam.lab.bench.cases import Case
from ms_adam.lab.bench.contenders import CONTENDERS, memory_of
from ms_adam.lab.run.worker import Events


def work(job: dict, events: Events) -> None:
    """Builds, compiles and times one contender, ``job["contender"]``."""
    contender = CONTENDERS[job["contender"]]
    __import__("torch" if contender.way == "torch" else "mindspore")
    events.send("ready")
    requests = events.requests()
    shapes, rows = next(requests)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM begins at VmRSS
    before = memory_of("/proc/self/status", "VmRSS")
    built = contender.build(Case("", tuple(map(tuple, shapes)), rows))
    compile_s = _seconds(built.step)
    built.empty_step()
    built.step()
    events.send(
        "built",
        compile_s=compile_s,
        state_bytes=built.state_bytes(),
        state_on=built.state_on,
        device_target=built.device_target,
        peak_bytes=memory_of("/proc/self/status", "VmHWM") - before,
    )
    for steps in requests:
        milliseconds = [1e3 * _seconds(built.step) for _ in range(steps)]
        empty = statistics.median(1e3 * _seconds(built.empty_step) for _ in range(20))
        events.send("timed", ms=milliseconds, empty_ms=empty)


def _seconds(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
