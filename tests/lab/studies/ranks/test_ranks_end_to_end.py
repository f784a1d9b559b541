"""Data-parallel trainings from the first step to the verdicts: undisturbed, stopped and killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from lab.run.changed_configs import write
from lab.studies.ranks.processes import left_of, paths_of_tests
from lab.studies.ranks.small_ranks import ranks_config

from ms_adam.lab.run.study import Session
from ms_adam.lab.studies.ranks.study import RanksConfig
from ms_adam.lab.studies.ranks.launch import SECONDS_TO_END
from ms_adam.lab.studies.ranks.study import STUDY

CONFIG = ranks_config()
STEPS, EVERY = CONFIG["steps"], CONFIG["checkpoints"]["every_steps"]
# SIGINT may be ignored in the process that started the tests, such as a shell's background job.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from ms_adam.lab.cli import main; main()"
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder, the content of results.json, and the reports of progress."""
    out, reports = tmp_path_factory.mktemp("not disturbed"), []
    session = Session(out, lambda *values: reports.append(values), reports.append)
    return out, STUDY.run([RanksConfig.model_validate(CONFIG)], session), reports


def by_case(content):
    return {
        (row["workers"], row["problem"], row["state"]): row
        for row in content["results"][0]["trainings"]
    }


def test_all_claims_hold(undisturbed):
    verdicts = STUDY.verdicts(undisturbed[1])
    assert [verdict["status"] for verdict in verdicts] == ["held"] * 4, verdicts


def test_results_are_complete(undisturbed):
    out, content, _ = undisturbed
    assert json.loads((out / "results.json").read_text()) == content
    rows = by_case(content)
    assert sorted(rows) == sorted(
        (workers, problem, state)
        for workers, state in ((1, "whole"), (2, "whole"), (2, "sharded"))
        for problem in ("images", "words")
    )
    for (workers, *_), row in rows.items():
        assert len(row["digests"]) == len(row["state_bytes"]) == workers
        assert row["resumed_after"] is None and row["step_ms"] > 0
    messages = content["results"][0]["messages"]
    assert {(message["message"], message["numbers"]) for message in messages} == {
        (name, size)
        for name in ("AllReduce", "AllGather", "Broadcast")
        for size in CONFIG["message_sizes"]
    }
    assert all(message["ms"] > 0 for message in messages)


def test_it_has_learned(undisturbed):
    """Equal parameters would prove nothing if no step had changed them."""
    out, content, _ = undisturbed
    rows = content["results"][0]["trainings"]
    digests = {row["digests"][0] for row in rows if row["problem"] == "images"}
    assert len(digests) == 2  # one process rounds otherwise than two
    with np.load(out / "graph-2" / "images-AdamW-sharded.npz") as arrays:
        # Adam's steps are about learning_rate each.
        assert max(np.abs(arrays[name]).max() for name in arrays.files if "bias" in name) > 1e-3


def test_progress_is_reported(undisturbed):
    reports = undisturbed[2]
    assert {running for _, running, _, _ in reports} == {"graph, 1 worker", "graph, 2 workers"}
    assert reports[-1] == ("few", "graph, 2 workers", 4 * STEPS, 4 * STEPS)


class Command:
    """``ms-adam reproduce`` as a process of its own."""

    def __init__(self, config, out, *more):
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, "reproduce", str(config), "--out", str(out), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **paths_of_tests()},
        )

    def until(self, folder, done):
        """Waits until rank 0 has reported this number of steps."""
        while self.process.poll() is None:
            path = folder / "events.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            if len(lines) >= done:  # one for each step
                return
            time.sleep(0.002)
        pytest.fail(f"it ended before {done} steps were made: {self.process.stdout.read()}")

    def end(self):
        """Its exit status and output."""
        return self.process.wait(), self.process.stdout.read()


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """A training stopped by Ctrl-C, then with a rank killed, then completed."""
    base = tmp_path_factory.mktemp("disturbed")
    config, out, found = write(base, CONFIG), base / "out", {}

    command = Command(config, out)
    command.until(out / "graph-1", EVERY + 1)
    command.process.send_signal(signal.SIGINT)
    found["stopped"] = (*command.end(), left_of(out))

    command = Command(config, out, "--resume")
    # In the second training of the launch, the one with shards, past a checkpoint.
    command.until(out / "graph-2", STEPS + EVERY + 1)
    os.kill(int((out / "graph-2" / "process_1").read_text()), signal.SIGKILL)
    killed_at = time.monotonic()
    status = command.end()
    found["seconds"] = time.monotonic() - killed_at
    found["killed"] = (*status, left_of(out))

    found["resumed"] = (*Command(config, out, "--resume").end(), left_of(out))
    found["content"] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.parametrize(
    "what, status, words",
    [
        ("stopped", 130, "--resume"),
        ("killed", 2, "rank 1 of 2 was killed or crashed"),
        ("resumed", 0, "4 of 4 claims held"),
    ],
)
def test_each_command_ends_in_order_and_leaves_no_process(disturbed, what, status, words):
    found, output, left = disturbed[what]
    assert found == status, output
    assert words in output and "Traceback" not in output
    assert left == []


def test_all_end_soon_after_a_rank_is_killed(disturbed):
    assert disturbed["seconds"] < SECONDS_TO_END


def test_resumed_it_ends_like_the_undisturbed(undisturbed, disturbed):
    expected, found = by_case(undisturbed[1]), by_case(disturbed["content"])
    assert {key: row["digests"] for key, row in found.items()} == {
        key: row["digests"] for key, row in expected.items()
    }


def test_it_continued_from_checkpoints(disturbed):
    rows = by_case(disturbed["content"])
    resumed = {key: row["resumed_after"] for key, row in rows.items()}
    assert resumed[1, "images", "whole"] == resumed[2, "images", "whole"] == STEPS
    middle = resumed[2, "images", "sharded"]
    assert EVERY <= middle < STEPS and middle % EVERY == 0
    assert resumed[2, "words", "whole"] is None
