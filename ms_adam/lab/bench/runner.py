"""Lets contenders take turns, and takes medians, ratios and drift of their times.

Each contender of a case has a process, which runs `work`. Its requests: [shapes, rows], upon which
it builds and compiles; then numbers of steps to time, again and again. Its events:

    {"event": "ready"}                                              imports are done
    {"event": "built", "compile_s", "first_s", "peak_bytes", "state_bytes", "state_on",
        "device_target"}
    {"event": "timed", "ms": [...], "empty_ms": ...}
"""

from __future__ import annotations

import contextlib
import importlib
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, Optional

from ms_adam.lab.bench.cases import Case
from ms_adam.lab.bench.contenders import CONTENDERS, memory_of
from ms_adam.lab.errors import UserError
from ms_adam.lab.run.processes import Job, Worker, WorkerError
from ms_adam.lab.run.results import results
from ms_adam.lab.run.worker import Events

# Called with: the current activity, steps done, steps in all.
Progress = Callable[[str, int, int], None]


def work(job: dict, events: Events) -> None:
    """Builds, compiles and times one contender, ``job["contender"]``."""
    contender = CONTENDERS[job["contender"]]
    importlib.import_module("torch" if contender.uses_torch else "mindspore")
    events.send("ready")
    requests = events.requests()
    shapes, rows = next(requests)
    if contender.target:  # not before "ready": a foreign package may refuse this machine
        importlib.import_module(contender.target.rpartition(".")[0])
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM begins at VmRSS
    before = memory_of("/proc/self/status", "VmRSS")
    built = contender.build(Case("", tuple(map(tuple, shapes)), rows))
    built.empty_step()  # so that what the first graph of any process costs is not counted
    compile_s = _seconds(built.compile)
    first_s = compile_s + _seconds(built.step)
    built.step()
    events.send(
        "built",
        compile_s=compile_s,
        first_s=first_s,
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


class Lane(contextlib.ExitStack):
    """A worker process: one contender in one case. A context, which ends the process."""

    def __init__(self, name: str):
        super().__init__()
        self.name, self.built, self.steps = name, {}, 1
        self.rounds: list[list[float]] = []
        log = Path(self.enter_context(tempfile.TemporaryDirectory())) / "log"
        job = Job("ms_adam.lab.bench.runner", name, {"contender": name}, log)
        self._worker = self.enter_context(Worker(job, asked=True))
        self._log = log

    def ready(self) -> None:
        """Waits until its imports are done."""
        self._hear(self._worker.event)

    def build(self, case: Case) -> None:
        self.built = self._hear(lambda: self._worker.ask([case.shapes, case.rows]))
        del self.built["event"]

    def time(self, steps: int) -> None:
        timed = self._hear(lambda: self._worker.ask(steps))
        self.rounds.append([ms - timed["empty_ms"] for ms in timed["ms"]])

    def _hear(self, event: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return event()
        except WorkerError as error:
            text = self._log.read_text(encoding="utf-8", errors="replace").strip()
            last = (text.splitlines() or ["its log is empty"])[-1]
            said = str(error).splitlines()[0].partition(" failed: ")[2]
            raise UserError(f"{self.name} cannot be timed: {said or last}") from error


def bench(
    cases: Iterable[tuple[Case, tuple[str, ...]]], rounds: int, passes: int, progress: Progress
) -> dict:
    """Times contenders in cases; returns the content of `bench.json`.

    Those of other packages that cannot be built are in its "left_out", with their reasons.

    All contenders of a case are alive at once and take turns, in an order that is reversed from
    round to round; between rounds the machine may change, within one it hardly does. Then all
    cases come again in reverse order with fresh processes: what differs between the passes is
    drift.

    Args:
        cases: A `Case` and the names of its contenders.
        rounds: Turns of each contender in a pass.
        passes: How often all cases come.

    Raises UserError if another contender cannot be built.
    """
    cases = list(cases)
    total = passes * sum(len(names) for _, names in cases) * (1 + rounds)
    measured: dict[tuple[str, str], list[Lane]] = {}
    left_out: list[str] = []
    done = 0

    def tell(what: str, made: int = 1) -> None:
        nonlocal done
        done += made
        progress(what, done, total)

    for number in range(passes):
        for case, names in cases if number % 2 == 0 else reversed(cases):
            with contextlib.ExitStack() as ends:
                tell(f"{case.name}: starting {len(names)} processes", 0)
                lanes = [ends.enter_context(Lane(name)) for name in names]
                for lane in lanes:
                    lane.ready()  # imports go on side by side; nothing is timed yet
                for lane in lanes[:] if number % 2 == 0 else lanes[::-1]:
                    tell(f"{case.name}: {lane.name} compiles", 0)
                    try:
                        lane.build(case)
                    except UserError as error:
                        if not CONTENDERS[lane.name].is_foreign:
                            raise
                        lanes.remove(lane)
                        left_out.append(f"{case.name}: {error}")
                    tell(f"{case.name}: {lane.name} compiled")
                for lane in lanes:
                    lane.time(3)  # a first round that does not count
                    # a third of a second each, as far as that goes; one step of those in seconds
                    step_ms = max(statistics.median(lane.rounds.pop()), 1.0)
                    lane.steps = max(5 if step_ms < 1000 else 1, min(100, int(300 / step_ms)))
                for turn in range(rounds):
                    for lane in lanes if turn % 2 == 0 else reversed(lanes):
                        lane.time(lane.steps)
                        tell(f"{case.name}: round {turn + 1}, {lane.name}")
                for lane in lanes:
                    measured.setdefault((case.name, lane.name), []).append(lane)
    targets = {lane.built["device_target"] for lanes in measured.values() for lane in lanes}
    entries = [
        _result(case, name, measured[case.name, name])
        for case, names in cases
        for name in names
        if (case.name, name) in measured
    ]
    left_out = list(dict.fromkeys(left_out))
    return {**results(entries, targets), "rounds": rounds, "passes": passes, "left_out": left_out}


def _result(case: Case, name: str, lanes: list[Lane]) -> dict:
    medians = [[statistics.median(times) for times in lane.rounds] for lane in lanes]
    times = sorted(time for lane in lanes for turn in lane.rounds for time in turn)
    median = statistics.median(times)
    return {
        "case": case.name,
        "contender": name,
        "dtype": CONTENDERS[name].dtype,
        "parameters": len(case.shapes),
        "elements": case.elements,
        "step_ms": median,
        "step_ms_10": times[len(times) // 10],
        "step_ms_90": times[-1 - len(times) // 10],
        "compile_s": statistics.median(lane.built["compile_s"] for lane in lanes),
        "first_s": statistics.median(lane.built["first_s"] for lane in lanes),
        "peak_bytes": max(lane.built["peak_bytes"] for lane in lanes),
        "state_bytes": lanes[0].built["state_bytes"],
        "state_on": lanes[0].built["state_on"],
        "drift": statistics.median(medians[-1]) / statistics.median(medians[0]),
        "rounds_ms": medians,
    }


def ratio(
    results: list[dict], case: str, contender: str, to: str, key: str = "step_ms"
) -> Optional[float]:
    """The time of a contender over that of another one in the same case.

    Steps are compared round by round, and the median of these ratios is given: a machine that is
    slow for some seconds slows both. None if one of the two did not take part.
    """
    found = {row["contender"]: row for row in results if row["case"] == case}
    if contender not in found or to not in found:
        return None
    if key != "step_ms":
        return found[contender][key] / found[to][key]
    pairs = [
        (mine, other)
        for pair in zip(found[contender]["rounds_ms"], found[to]["rounds_ms"])
        for mine, other in zip(*pair)
    ]
    return statistics.median(mine / other for mine, other in pairs)
