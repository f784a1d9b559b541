"""Launches of ranks that fail: who failed is told, soon, and nobody is left."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab.studies.ranks.processes import left_of, paths_of_tests

from ms_adam.lab.studies.ranks import launch as launching
from ms_adam.lab.studies.ranks.launch import SECONDS_TO_END, RankError, launch


@pytest.fixture(scope="module")
def over():
    """The number of a process that was."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def folder_of(path, processes, ended, msrun=""):
    """What ranks have left in the folder of a launch, in this order."""
    for name, number in processes.items():
        (path / f"process_{name}").write_text(str(number))
    for age, (name, words) in enumerate(ended):
        (path / f"ended_{name}.json").write_text(json.dumps(words))
        os.utime(path / f"ended_{name}.json", ns=(age, age))
    (path / "msrun.log").write_text(msrun)
    return path


class TestFailure:
    """`_failure` on made-up folders; this process lives, `over` does not."""

    def test_none_yet(self, tmp_path):
        assert launching._failure(folder_of(tmp_path, {}, []), 2) is None
        alive = {name: os.getpid() for name in ("scheduler", 0, 1)}
        assert launching._failure(folder_of(tmp_path, alive, []), 2) is None

    def test_none_when_one_is_done_before_the_other(self, tmp_path, over):
        folder = folder_of(
            tmp_path, {"scheduler": os.getpid(), 0: over, 1: os.getpid()}, [(0, "done")]
        )
        assert launching._failure(folder, 2) is None

    def test_none_when_all_are_done(self, tmp_path, over):
        folder = folder_of(
            tmp_path, {"scheduler": over, 0: over, 1: over}, [(1, "done"), (0, "done")]
        )
        assert launching._failure(folder, 2) is None

    def test_the_first_that_said_something(self, tmp_path, over):
        folder = folder_of(
            tmp_path,
            {"scheduler": os.getpid(), 0: os.getpid(), 1: over},
            [(1, "no page 7"), ("scheduler", "1 timed out"), (0, "rank 1 is lost")],
        )
        assert launching._failure(folder, 2) == "rank 1 of 2 failed: no page 7"

    def test_one_that_is_gone_without_a_word(self, tmp_path, over):
        folder = folder_of(tmp_path, {"scheduler": os.getpid(), 0: os.getpid(), 1: over}, [])
        assert launching._failure(folder, 2) == "rank 1 of 2 was killed or crashed"

    def test_one_that_its_parent_has_not_missed_yet(self, tmp_path):
        process = subprocess.Popen([sys.executable, "-c", ""])
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not asked for
            folder = folder_of(tmp_path, {"scheduler": os.getpid(), 0: process.pid}, [])
            assert launching._failure(folder, 1) == "rank 0 of 1 was killed or crashed"
        finally:
            process.wait()

    def test_the_scheduler(self, tmp_path, over):
        folder = folder_of(tmp_path, {"scheduler": over, 0: os.getpid()}, [])
        assert launching._failure(folder, 1) == "the scheduler was killed or crashed"

    def test_one_that_could_not_begin(self, tmp_path):
        folder = folder_of(
            tmp_path,
            {"scheduler": os.getpid()},
            [],
            "Worker process 7 exit with exception. Error code: 1.",
        )
        assert launching._failure(folder, 1) == "a rank of 1 ended before it could tell why"


def events_of(folder, workers, raises):
    return launch(
        workers,
        "lab.studies.ranks.ranks_that_fail",
        {"mode": "graph", "raises": raises},
        folder,
        paths_of_tests(),
    )


def test_a_rank_that_raises_is_named_and_all_are_ended(tmp_path):
    folder = tmp_path / "of one launch"
    folder.mkdir()
    for old in ("ended_0.json", "process_1", "events.jsonl"):  # of an earlier one: not believed
        (folder / old).write_text('"failed before"')
    with pytest.raises(RankError) as raised:
        list(events_of(folder, 2, raises=1))
    failed_at = (folder / "ended_1.json").stat().st_mtime
    assert time.time() - failed_at < SECONDS_TO_END
    assert str(raised.value).splitlines() == [
        "rank 1 of 2 failed: ValueError: there is no page 7; all ranks were ended",
        f"  their logs: {folder}",
    ]
    assert json.loads((folder / "events.jsonl").read_text()) == {"event": "met", "count": 2}
    assert "there is no page 7" in (folder / "worker_1.log").read_text()
    assert left_of(folder) == []


def test_a_launch_that_is_left_ends_its_ranks(tmp_path):
    events = events_of(tmp_path, 1, raises=None)
    assert next(events)["event"] == "met"
    assert len(left_of(tmp_path)) > 1
    events.close()
    assert left_of(tmp_path) == []


def test_a_port_that_another_has_is_no_endless_wait(tmp_path, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(launching, "free_port", lambda: other.getsockname()[1])
        with pytest.raises(RankError, match="the scheduler failed: (.|\n)*MS_SCHED_PORT"):
            list(events_of(tmp_path, 1, raises=None))
    assert left_of(tmp_path) == []


def test_a_module_that_is_not_there(tmp_path):
    with pytest.raises(RankError, match="before it could tell why|msrun ended with status 1"):
        list(launch(1, "lab.studies.ranks.nowhere", {}, tmp_path, paths_of_tests()))
    assert "No module named" in Path(tmp_path, "worker_0.log").read_text()
    assert left_of(tmp_path) == []


LAUNCH = """
import sys
from pathlib import Path
from lab.studies.ranks.test_launch import events_of
for event in events_of(Path(sys.argv[1]), 2, raises="nobody"):
    print(event["event"], flush=True)
"""


def test_a_launch_that_is_killed_leaves_nobody(tmp_path):
    folder = tmp_path / "ranks"
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(folder)],
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **paths_of_tests()},
    )
    try:
        assert process.stdout.readline() == "met\n"
        assert len(left_of(folder)) == 5, left_of(
            folder
        )  # the launch, msrun, its scheduler, two ranks
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + SECONDS_TO_END
    while left_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_of(folder) == []
