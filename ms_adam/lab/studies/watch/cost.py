"""Measures what watching costs a script, in time and in CPU time of its processes.

    python -m ms_adam.lab.studies.watch.cost --rounds 7 -- python train.py

The script runs without watch, with ``--every 0`` and with the default, in turns. CPU time is user
and system time. Beside it stands the share of `schedule.Budget`, by the clocks of the watched
process. A script that waits, for a device or for a core, has less CPU time than time, and looks
then add more to the one than to the other.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ms_adam.lab.run.results import markdown
from ms_adam.lab.studies.watch import study

WAYS = {"without watch": None, "`--every 0`": {"every": 0}, "default": {}}


class Cost(NamedTuple):
    """Of one run."""

    time: float  # seconds
    cpu: float
    share: Optional[float]  # of the time that the script took itself, by our clocks
    looks: int


def measured(command: Sequence[str], options: Optional[dict]) -> Cost:
    """Runs a command; options of `study.run`, or None to run it without watch."""
    before = _used()
    if options is None:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return Cost(*(_used() - before), None, 0)
    with tempfile.TemporaryDirectory() as folder:
        status = study.run(command, Path(folder), **options, stdout=subprocess.DEVNULL)
        if status:
            raise SystemExit(f"{command[0]} ended with status {status}")
        used = _used() - before
        records = study.records(Path(folder))
    share = study.whole(records).get("share")
    return Cost(*used, share, sum(len(record["looks"]) for record in records))


def _used():
    """Seconds until now, and CPU seconds of all processes that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), children.ru_utime + children.ru_stime])


def rows(rounds: Sequence[dict[str, Cost]]) -> list[list[str]]:
    """The rows of the table: medians, and from the least to the largest in parentheses."""
    return [[way, *_cells(way, rounds)] for way in WAYS]


def _cells(way, rounds):
    runs = [one[way] for one in rounds]
    for kind in ("time", "cpu"):
        used = [getattr(run, kind) for run in runs]
        without = [getattr(one["without watch"], kind) for one in rounds]
        added = [mine / other - 1 for mine, other in zip(used, without)]
        yield _spread(used, "{:.2f}")
        yield "" if WAYS[way] is None else _spread(added, "{:+.1%}")
    shares = [run.share for run in runs if run.share is not None]
    yield _spread(shares, "{:.2%}") if shares else ""
    yield f"{statistics.median(run.looks for run in runs):.0f}" if shares else ""


def _spread(values, form):
    ends = (statistics.median(values), min(values), max(values))
    return "{} ({} to {})".format(*map(form.format, ends))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("command", nargs="+", metavar="-- COMMAND")
    given = parser.parse_args()
    rounds = []
    for number in range(given.rounds):
        ways = list(WAYS)
        ways = ways[number % 3 :] + ways[: number % 3]  # each is first, second and third in turn
        rounds.append({way: measured(given.command, WAYS[way]) for way in ways})
        print(
            f"round {number + 1}:",
            *(f"{w} {c.time:.2f} s, CPU {c.cpu:.2f} s;" for w, c in rounds[-1].items()),
        )
    head = ["run", "s", "added", "CPU s", "added", "accounted share", "looks"]
    print(markdown(head, rows(rounds)))


if __name__ == "__main__":
    main()
