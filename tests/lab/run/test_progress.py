"""What people see of runs: lines where there is no terminal, bars where there is one."""

import io

import pytest
from rich.console import Console

from ms_adam.lab.run import progress
from ms_adam.lab.run.progress import ProgressDisplay, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(reports, clock):
    stream = io.StringIO()
    with ProgressDisplay(Console(file=stream, width=200)) as display:
        for seconds, values, more in reports:
            clock[0] = 100.0 + seconds
            display(*values, **more)
    return stream.getvalue().splitlines()


def test_a_line_at_start_and_end_and_every_few_seconds(clock):
    steps = [(second, ("quick", "graph", second, 12), {}) for second in range(13)]
    assert lines_of(steps, clock) == [
        f"quick, graph: {done} of 12 steps" for done in (0, 5, 10, 12)
    ]


def test_lines_of_many_short_runs_tell_the_share_and_the_time_left(clock):
    reports = [
        (second, ("figure", f"run {second}", 9, 9), {"slot": 0, "whole": (second, 1000.0)})
        for second in (1, 2, 6, 50)
    ]
    assert lines_of(reports, clock) == [
        "figure, run 1: 9 of 9 steps; all runs: 0%",
        "figure, run 6: 9 of 9 steps; all runs: 1%",
        "figure, run 50: 9 of 9 steps; all runs: 5%, 16 min left",
    ]


def test_runs_share_the_bar_of_their_slot():
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    with ProgressDisplay(console) as display:
        for number in range(5):
            display("figure", f"run {number}", 1, 2, slot=0, whole=(number, 10.0))
        display("quick", "graph", 3, 12)
        assert [task.description for task in display._bars.tasks] == [
            "all runs, now figure",
            "run 4",
            "quick, graph",
        ]
        assert [task.percentage for task in display._bars.tasks] == [40, 50, 25]
    assert "all runs, now figure" in stream.getvalue()


@pytest.mark.parametrize(
    "seconds, words",
    [(-1, "0 s"), (59.4, "59 s"), (100, "1 min 40 s"), (599, "9 min 59 s"), (5700, "95 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
