"""Lets contenders take turns, and makes medians, ratios and drift of their times."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import Callable, Optional

from ms_adam.lab.bench.cases import Case
from ms_adam.lab.bench.contenders import CONTENDERS
from ms_adam.lab.errors import UserError
from ms_adam.lab.run.environment import environment

SCHEMA = 1

# is told: what is going on, how much is done, how much there is
Progress = Callable[[str, int, int], None]


class Lane:
    """A worker process: one contender in one case."""

    def __init__(self, name: str):
        self.name = name
        self.log = tempfile.TemporaryFile(mode="w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ms_adam.lab.bench.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the worker
        )
        self.built: dict = {}
        self.steps = 1
        self.rounds: list[list[float]] = []

    def ask(self, line: str) -> dict:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> dict:
        line = self.process.stdout.readline()
        event = json.loads(line) if line else {}
        if event.get("event", "failed") == "failed":
            self.process.wait()
            self.log.seek(0)
            last = (self.log.read().strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"{self.name} can not be timed: {event.get('message', last)}")
        return event

    def build(self, case: Case) -> None:
        self.built = self.ask(json.dumps([case.shapes, case.rows]))
        del self.built["event"]

    def time(self, steps: int) -> None:
        timed = self.ask(str(steps))
        self.rounds.append([ms - timed["empty_ms"] for ms in timed["ms"]])

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


def bench(
    cases: Iterable[tuple[Case, tuple[str, ...]]], rounds: int, passes: int, progress: Progress
) -> dict:
    """Times contenders in cases.

    All contenders of a case are alive at once and take turns, in an order that is reversed from
    round to round; between rounds the machine may change, within one it hardly does. Then all
    cases come again in reverse order with fresh processes: what differs between the passes is
    drift.

    Args:
        cases: a `Case` and the names of its contenders.
        rounds: how many turns each contender has in a pass.
        passes: how often all cases come.
        progress: is called while it goes on.

    Returns:
        What `bench.json` holds.

    Raises:
        UserError: If a contender can not be built.
    """
    cases = list(cases)
    total = passes * sum(len(names) for _, names in cases) * (1 + rounds)
    measured: dict[tuple[str, str], list[Lane]] = {}
    done = 0

    def tell(what: str, made: int = 1) -> None:
        nonlocal done
        done += made
        progress(what, done, total)

    for number in range(passes):
        for case, names in cases if number % 2 == 0 else reversed(cases):
            with contextlib.ExitStack() as ends:
                tell(f"{case.name}: starting {len(names)} processes", 0)
                lanes = [Lane(name) for name in names]
                for lane in lanes:
                    ends.callback(lane.close)
                for lane in lanes:
                    lane.hear()  # imports go on side by side; nothing is timed yet
                for lane in lanes if number % 2 == 0 else reversed(lanes):
                    tell(f"{case.name}: {lane.name} compiles", 0)
                    lane.build(case)
                    tell(f"{case.name}: {lane.name} compiled")
                for lane in lanes:
                    lane.time(3)  # a first round that does not count
                    # a third of a second each, as far as that goes
                    step_ms = max(statistics.median(lane.rounds.pop()), 1.0)
                    lane.steps = max(5, min(100, int(300 / step_ms)))
                for turn in range(rounds):
                    for lane in lanes if turn % 2 == 0 else reversed(lanes):
                        lane.time(lane.steps)
                        tell(f"{case.name}: round {turn + 1}, {lane.name}")
                for lane in lanes:
                    measured.setdefault((case.name, lane.name), []).append(lane)
    targets = {lane.built["device_target"] for lanes in measured.values() for lane in lanes}
    return {
        "schema": SCHEMA,
        "environment": environment(", ".join(sorted(targets))),
        "rounds": rounds,
        "passes": passes,
        "results": [
            _result(case, name, measured[case.name, name])
            for case, names in cases
            for name in names
        ],
    }


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
        "peak_bytes": max(lane.built["peak_bytes"] for lane in lanes),
        "state_bytes": lanes[0].built["state_bytes"],
        "state_on": lanes[0].built["state_on"],
        "drift": statistics.median(medians[-1]) / statistics.median(medians[0]),
        "rounds_ms": medians,
    }


def ratio(
    results: list[dict], case: str, contender: str, to: str, key: str = "step_ms"
) -> Optional[float]:
    """How the time of a contender stands to that of another one in the same case.

    Steps are compared round by round, and the median of these ratios is given: what slows the
    machine for some seconds slows both.

    Returns:
        The ratio; None if one of the two was not there.
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
