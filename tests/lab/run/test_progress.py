"""What people see of runs: lines where there is no terminal, bars where there is one."""

import io

import pytest
from rich.console import Console

from ms_adam.lab.run import progress
from ms_adam.lab.run.progress import ProgressDisplay, duration


@pytest.fixture
def lines_at(monkeypatch):
    """Takes a report's arguments by the second; returns the lines that are shown."""

    def lines_at(seconds, report):
        now, stream = [0], io.StringIO()
        monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0 + now[0])
        with ProgressDisplay(Console(file=stream, width=200)) as display:
            for now[0] in seconds:
                report(display, now[0])
        return stream.getvalue().splitlines()

    return lines_at


def test_a_line_at_start_and_end_and_every_few_seconds(lines_at):
    lines = lines_at(range(13), lambda display, now: display("quick", "graph", now, 12))
    assert lines == [f"quick, graph: {done} of 12 steps" for done in (0, 5, 10, 12)]


def test_lines_of_many_short_runs_tell_the_share_and_the_time_left(lines_at):
    def report(display, now):
        display("figure", f"run {now}", 9, 9, slot=0, whole=(now, 1000.0))

    assert lines_at((1, 2, 6, 50), report) == [
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
        assert [task.description for task in display.tasks] == [
            "all runs, now figure",
            "run 4",
            "quick, graph",
        ]
        assert [task.percentage for task in display.tasks] == [40, 50, 25]
    assert "all runs, now figure" in stream.getvalue()


@pytest.mark.parametrize(
    "seconds, words",
    [(-1, "0 s"), (59.4, "59 s"), (100, "1 min 40 s"), (599, "9 min 59 s"), (5700, "95 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
