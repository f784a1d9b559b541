"""Data-parallel trainings from the first step to the verdicts: undisturbed, stopped and killed."""

import contextlib
import json
import os
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from lab.run.launched import left_of, paths_of_tests
from lab.studies.ranks.small_ranks import ranks_config
from mindspore import nn

import ms_adam
from ms_adam.lab.errors import Interrupted
from ms_adam.lab.run import launch
from ms_adam.lab.run.checkpoints import CheckpointFiles
from ms_adam.lab.run.launch import SECONDS_TO_END, RankError
from ms_adam.lab.run.study import Session
from ms_adam.lab.studies.ranks import study, training

CONFIG = study.RanksConfig.model_validate(ranks_config())
STEPS, EVERY = CONFIG.steps, CONFIG.checkpoints.every_steps


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder, the content of results.json, and the reports of progress."""
    out, reports = tmp_path_factory.mktemp("not disturbed"), []
    # There is nothing to resume: it starts at the first step.
    session = Session(out, lambda *values: reports.append(values), reports.append, {"resume": True})
    return out, study.run([CONFIG], session), reports


def by_case(rows):
    return {(row["workers"], row["problem"], row["state"]): row for row in rows}


def test_all_claims_hold(undisturbed):
    verdicts = study.STUDY.verdicts(undisturbed[1])
    assert [verdict["status"] for verdict in verdicts] == ["held"] * 4, verdicts


def test_results_are_complete(undisturbed):
    out, content, reports = undisturbed
    assert json.loads((out / "results.json").read_text()) == content
    rows = by_case(content["results"][0]["trainings"])
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
        for size in CONFIG.message_sizes
    }
    assert all(message["ms"] > 0 for message in messages)
    assert {running for _, running, _, _ in reports} == {"graph, 1 worker", "graph, 2 workers"}
    assert reports[-1] == ("few", "graph, 2 workers", 4 * STEPS, 4 * STEPS)


def test_it_has_learned(undisturbed):
    """Equal parameters would prove nothing if no step had changed them."""
    out, content, _ = undisturbed
    rows = content["results"][0]["trainings"]
    digests = {row["digests"][0] for row in rows if row["problem"] == "images"}
    assert len(digests) == 2  # one process rounds otherwise than two
    with np.load(out / "graph-2" / "images-AdamW-sharded.npz") as arrays:
        # Adam's steps are about learning_rate each.
        assert max(np.abs(arrays[name]).max() for name in arrays.files if "bias" in name) > 1e-3


def test_ctrl_c_names_the_way_on_and_leaves_no_process(tmp_path, monkeypatch):
    def interrupt(name, running, done, total):
        if done == 1:
            assert len(left_of(tmp_path)) > 1
            raise KeyboardInterrupt

    def staying(workers, module, job, folder):
        return launch.launch(workers, "lab.run.ranks_that_stay", job, folder, paths_of_tests())

    monkeypatch.setattr(study, "launch", staying)
    with pytest.raises(Interrupted, match="--resume goes on from the newest checkpoints"):
        study.run([CONFIG], Session(tmp_path, interrupt, print))
    assert left_of(tmp_path) == []


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, undisturbed):
    """What two workers found after one was killed: their rows, and what was seen of the kill."""
    config = CONFIG.model_copy(update={"problems": CONFIG.problems[:1]})
    out = tmp_path_factory.mktemp("disturbed")
    shutil.copytree(undisturbed[0] / "graph-1", out / "graph-1")
    folder, seen = out / "graph-2", {}

    def kill(name, running, done, total):
        # In the second training of the launch, the one with shards, past a checkpoint.
        if done > STEPS + EVERY and not seen:
            os.kill(int((folder / "process_1").read_text()), signal.SIGKILL)
            seen["at"] = time.monotonic()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RankError) as error:
        patch.setattr(launch, "_SECONDS_BETWEEN_LOOKS", 0.01)  # so that few steps are enough
        study._launch(config, "graph", 2, folder, Session(out, kill, print))
    seen.update(seconds=time.monotonic() - seen["at"], error=str(error.value), left=left_of(out))
    session = Session(out, lambda *_: None, print, {"resume": True})
    ranks = study._launch(config, "graph", 2, folder, session)
    return list(study._rows(out, "graph", 2, [rank["trainings"] for rank in ranks])), seen


def test_all_end_soon_after_a_rank_is_killed(resumed):
    _, seen = resumed
    assert "rank 1 of 2 was killed or crashed" in seen["error"]
    assert seen["seconds"] < SECONDS_TO_END and seen["left"] == []


def test_resumed_it_ends_like_the_undisturbed(undisturbed, resumed):
    found, expected = by_case(resumed[0]), by_case(undisturbed[1]["results"][0]["trainings"])
    assert {key: row["digests"] for key, row in found.items()} == {
        key: row["digests"] for key, row in expected.items() if key[:2] == (2, "images")
    }
    assert [verdict.status for verdict in study.verdicts(CONFIG, resumed[0])] == ["held"] * 4


def test_it_continued_from_checkpoints(resumed):
    after = {key: row["resumed_after"] for key, row in by_case(resumed[0]).items()}
    middle = after[2, "images", "sharded"]
    assert EVERY <= middle < STEPS and middle % EVERY == 0
    assert after[2, "images", "whole"] == STEPS


def test_checkpoints_of_another_config_make_room(tmp_path):
    """Theirs are of later steps, so of two that are kept none would be this training's."""
    model, files = nn.Dense(2, 2), CheckpointFiles(tmp_path / "checkpoints", keep=2)
    optimizer = ms_adam.Adam(model.trainable_params())
    alone = SimpleNamespace(zero_first=contextlib.nullcontext)
    state = {**model.parameters_dict(), **ms_adam.gather_state(optimizer)}

    def resumed_at(seed):
        return training._restore(files, model, optimizer, {"seed": seed}, alone)

    for step in (15, 20):
        files.save(step, state, {"seed": 1})
    assert (resumed_at(1), resumed_at(2)) == (20, 0)
    files.save(5, state, {"seed": 2})
    assert resumed_at(2) == 5
