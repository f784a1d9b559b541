"""Worker processes: what they report, how they die, and that none is left."""

import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ms_adam.lab.run.processes import Job, Worker, WorkerError, locked, run_jobs, work

HERE = "lab.run.test_processes"  # the module that the workers import


def reports(job, events):
    print("noise of the framework")
    events.send("run", pid=os.getpid(), **job)


def waits(job, events):
    """Waits for a file, or for ever."""
    events.send("run", pid=os.getpid())
    while not ("file" in job and os.path.exists(job["file"])):
        time.sleep(0.01)
    events.send("run", pid=os.getpid())


def answers(job, events):
    for request in events.requests():
        events.send("answer", twice=2 * request)


def fails(job, events):
    raise ValueError("no")


def dies(job, events):
    os.kill(os.getpid(), 9)


def ends(job, events):
    os._exit(3)


ENDS = [
    (fails, "failed: ValueError: no"),
    (dies, "was ended by signal 9 (SIGKILL) before it was done"),
    (ends, "ended with exit status 3 before it was done"),
]


@pytest.fixture
def job(tmp_path, importable):
    """Makes jobs of the functions above."""

    def make(function, name="a", **content):
        return Job(f"{HERE}:{function.__name__}", name, content, tmp_path / f"{name}.log")

    return make


def is_gone(pid):
    return not Path(f"/proc/{pid}").exists()


def test_events_of_a_job(job):
    made = job(reports, number=3)
    (event,) = work(*made)
    assert event["event"] == "run" and event["number"] == 3
    assert "noise of the framework" in made.log.read_text()


@pytest.mark.parametrize("function, part", ENDS)
def test_a_worker_that_dies_is_told_with_its_log(job, function, part):
    made = job(function, "graph")
    with pytest.raises(WorkerError, match=re.escape(f"the graph worker {part}")) as caught:
        list(work(*made))
    assert str(made.log) in str(caught.value)


def test_requests_are_answered_in_turn(job):
    with Worker(job(answers), asked=True) as worker:
        assert [worker.ask(number)["twice"] for number in (2, 5)] == [4, 10]


def test_a_worker_that_has_ended_answers_nothing(job):
    with Worker(job(reports), asked=True) as worker:
        worker.event()
        with pytest.raises(WorkerError, match="the a worker ended too early"):
            worker.ask(1)


def test_events_of_jobs_side_by_side_come_as_they_are_told(job, tmp_path):
    jobs = [job(waits, "late", file=str(tmp_path / "go")), job(reports, "early")]
    told = []
    for number, _ in run_jobs(jobs, at_a_time=2):
        told.append(number)
        if number == 1:
            (tmp_path / "go").touch()  # the first waits for what the second has told
    assert sorted(told) == [0, 0, 1] and told[-1] == 0


def test_jobs_wait_for_each_other(job):
    """No more run at once than allowed."""
    pids = []
    for _, event in run_jobs([job(reports, name) for name in "abc"]):
        assert all(map(is_gone, pids))
        pids.append(event["pid"])
    assert len(set(pids)) == 3


@pytest.mark.parametrize("function, part", ENDS[:2])
def test_one_that_fails_ends_those_beside_it(job, function, part):
    seen, started = [], time.monotonic()
    with pytest.raises(WorkerError, match=re.escape(f"the bad worker {part}")):
        for _, event in run_jobs([job(waits, "good"), job(function, "bad")], at_a_time=2):
            seen.append(event["pid"])
    assert time.monotonic() - started < 30 and all(map(is_gone, seen))


@pytest.mark.parametrize("function, part", ENDS)
def test_others_go_on_if_they_are_to(job, function, part):
    jobs = [job(function, "bad"), job(reports, "good")]
    found = dict(run_jobs(jobs, keep_going=True))
    assert part in str(found[0]) and found[1]["event"] == "run"


def test_who_stops_listening_ends_them_all(job):
    with contextlib.closing(run_jobs([job(waits, "a"), job(waits, "b")], 2)) as events:
        seen = [event["pid"] for _, event in itertools.islice(events, 2)]
    assert all(map(is_gone, seen))


OTHER = """
import sys, time; from pathlib import Path
from ms_adam.lab.run.processes import locked
with locked(Path(sys.argv[1])) as taken:
    print(taken, flush=True)
    time.sleep(600 if taken else 0)
"""


def test_one_process_has_a_lock_and_its_death_releases_it(tmp_path):
    def start():
        arguments = [sys.executable, "-c", OTHER, str(tmp_path / "a")]
        return subprocess.Popen(arguments, text=True, stdout=subprocess.PIPE)

    with start() as first:
        assert first.stdout.readline() == "True\n"
        for name, free in (("a", False), ("b", True)):
            with locked(tmp_path / name) as taken:
                assert taken == free
        first.kill()
    with locked(tmp_path / "a") as taken:
        assert taken
        with start() as second:
            assert second.stdout.readline() == "False\n"
