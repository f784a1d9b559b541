"""The process of one contender in one case: ``python -m ms_adam.lab.bench.worker CONTENDER``.

On standard input, a line each: [shapes, rows] as JSON, upon which it builds and compiles; then how many
steps to time, again and again. On standard output an object a line:

    {"event": "ready"}                                              imports are done
    {"event": "built", "compile_s", "peak_bytes", "state_bytes", "state_on",
     "device_target"}
    {"event": "timed", "ms": [...], "empty_ms": ...}
    {"event": "failed", "message": ...}                             the last line
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import traceback
from pathlib import Path

from ms_adam.lab.run.worker import Events


def main() -> int:
    events = Events()
    try:
        work(sys.argv[1], sys.stdin, events)
    except Exception as error:  # the boundary of the process: told to the runner, trace to the log
        traceback.print_exc()
        events.send("failed", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


def work(name: str, lines, events: Events) -> None:
    """Builds, compiles and times one contender."""
    from ms_adam.lab.bench.cases import Case
    from ms_adam.lab.bench.contenders import CONTENDERS, TORCH

    __import__("torch" if name == TORCH else "mindspore")
    events.send("ready")
    shapes, rows = json.loads(next(lines))
    _forget_peak()
    before = _memory("VmRSS")
    contender = CONTENDERS[name].build(Case(name, tuple(map(tuple, shapes)), rows))
    started = time.perf_counter()
    contender.step()
    compile_s = time.perf_counter() - started
    contender.empty_step()
    contender.step()
    events.send(
        "built",
        compile_s=compile_s,
        state_bytes=contender.state_bytes(),
        state_on=contender.state_on,
        device_target=contender.device_target,
        peak_bytes=_memory("VmHWM") - before,
    )
    for line in lines:
        milliseconds = [_milliseconds(contender.step) for _ in range(int(line))]
        empty = statistics.median(_milliseconds(contender.empty_step) for _ in range(20))
        events.send("timed", ms=milliseconds, empty_ms=empty)


def _milliseconds(step) -> float:
    started = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - started)


def _memory(field: str) -> int:
    """A figure of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def _forget_peak() -> None:
    """Lets VmHWM begin at what is in use now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
