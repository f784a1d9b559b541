"""Launches of ranks that fail: the message names the failure, soon, and no process is left."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab.run.launched import left_of, paths_of_tests

from ms_adam.lab.run import launch as launching
from ms_adam.lab.run.launch import SECONDS_TO_END, RankError, launch


@pytest.fixture(scope="module")
def ended():
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def folder_of(path, processes, reports, msrun=""):
    """The files of a launch: numbers of processes, and the last words of some in this order."""
    for name, number in processes.items():
        (path / f"process_{name}").write_text(str(number))
    for age, (name, words) in enumerate(reports):
        (path / f"ended_{name}.json").write_text(json.dumps(words))
        os.utime(path / f"ended_{name}.json", ns=(age, age))
    (path / "msrun.log").write_text(msrun)
    return path


DONE_0, DONE_1 = (0, "done"), (1, "done")
LOST = [(1, "no page 7"), ("scheduler", "1 timed out"), (0, "rank 1 is lost")]
EXIT = "Worker process 7 exit with exception. Error code: 1."


@pytest.mark.parametrize(
    "alive, gone, reports, msrun, wanted",
    [
        ([], [], [], "", None),
        (["scheduler", 0, 1], [], [], "", None),
        (["scheduler", 1], [0], [DONE_0], "", None),  # one is done before the other
        (["scheduler", 0, 1], [], [DONE_1, DONE_0], "", "done"),
        ([], ["scheduler", 0, 1], [DONE_1, DONE_0], "", "done"),
        (["scheduler", 0], [1], LOST, "", "rank 1 of 2 failed: no page 7"),
        (["scheduler", 0], [1], [], "", "rank 1 of 2 was killed or crashed"),
        ([0], ["scheduler"], [], "", "the scheduler was killed or crashed"),
        (["scheduler"], [], [], EXIT, "a rank of 2 ended before it could tell why"),
    ],
)
def test_how_a_launch_ends_is_found(tmp_path, ended, alive, gone, reports, msrun, wanted):
    numbers = {**dict.fromkeys(alive, os.getpid()), **dict.fromkeys(gone, ended)}
    assert launching._outcome(folder_of(tmp_path, numbers, reports, msrun), 2) == wanted


def test_a_rank_has_failed_before_its_parent_notices(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not waited for
        folder = folder_of(tmp_path, {"scheduler": os.getpid(), 0: process.pid}, [])
        assert launching._outcome(folder, 1) == "rank 0 of 1 was killed or crashed"


def events_of(folder, workers, raises):
    module = "lab.run.ranks_that_fail"
    return launch(workers, module, {"mode": "graph", "raises": raises}, folder, paths_of_tests())


def test_a_rank_that_raises_is_named_and_all_are_ended(tmp_path):
    folder = tmp_path / "of one launch"
    folder.mkdir()
    for old in ("ended_0.json", "process_1", "events.jsonl"):  # of an earlier launch: ignored
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


def test_a_port_in_use_is_no_endless_wait(tmp_path, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(launching, "free_port", lambda: other.getsockname()[1])
        with pytest.raises(RankError, match="the scheduler failed: (.|\n)*MS_SCHED_PORT"):
            list(events_of(tmp_path, 1, raises=None))
    assert left_of(tmp_path) == []


def test_a_missing_module_is_an_error(tmp_path):
    with pytest.raises(RankError, match="before it could tell why|msrun ended with status 1"):
        list(launch(1, "lab.studies.ranks.nowhere", {}, tmp_path, paths_of_tests()))
    assert "No module named" in Path(tmp_path, "worker_0.log").read_text()
    assert left_of(tmp_path) == []


def test_msrun_that_ends_before_its_ranks_are_done_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "_MSRUN", "")
    with pytest.raises(RankError, match="msrun ended with status 0"):
        list(launch(1, "lab.run.ranks_that_fail", {}, tmp_path))


LAUNCH = """
import sys
from pathlib import Path
from lab.run.test_launch import events_of
for event in events_of(Path(sys.argv[1]), 1, raises="nobody"):
    print(event["event"], flush=True)
"""


@pytest.mark.parametrize("when", ["a rank has met the others", "ranks import"])
def test_a_killed_launch_leaves_no_process(tmp_path, when):
    folder = tmp_path / "ranks"
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(folder)],
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, **paths_of_tests()},
    ) as process:
        try:
            if when == "ranks import":
                while len(left_of(folder)) < 4:
                    time.sleep(0.01)
                assert not (folder / "process_0").exists()  # which a rank writes after that
            else:
                assert process.stdout.readline() == "met\n"
                # the launch, msrun, its scheduler, the rank
                assert len(left_of(folder)) == 4, left_of(folder)
        finally:
            process.kill()
    deadline = time.monotonic() + SECONDS_TO_END + 60 * (when == "ranks import")
    while left_of(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_of(folder) == []
