"""The kill test itself, in short."""

import json
import signal
from pathlib import Path

import pytest
from lab.studies.resume.training_config import small_run

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.studies.resume import kill_test as killing
from ms_adam.lab.studies.resume.kill_test import differing, kill_test, refuse_another_start


def killed(run, folder, kills):
    """The result of a kill test, looked through."""
    told = []
    content = kill_test(run, "graph", folder, kills, seed=1, tell=told.append)
    (result,) = content["results"]
    assert len(result["kills"]) == kills and len(told) == kills + 1
    assert all(training == {"differing": []} for training in result["trainings"])
    assert any(kill["resumed_after"] for kill in result["kills"])  # and went on where it was
    for kill in result["kills"]:
        assert kill["checkpoint"] is None or kill["checkpoint"] <= kill["lines"] <= run.steps
    assert json.loads((folder / "kills.json").read_text()) == content


def test_a_kill(tmp_path):
    # So many epochs that the steps take about a second.
    killed(small_run(tmp_path, training={"epochs": 150}), tmp_path / "kills", 1)


def test_nine_kills(tmp_path, monkeypatch, importable):
    """Two of them at any moment since the start of a process."""
    monkeypatch.setattr(killing, "TRAINING", "lab.studies.resume.pretended_training")
    killed(small_run(tmp_path, training={"epochs": 25}), tmp_path / "kills", 9)


def test_a_training_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(killing, "TRAINING", "lab.studies.resume.nowhere")
    with pytest.raises(ExperimentError, match="'undisturbed' ended with exit status 1") as caught:
        killed(small_run(tmp_path), tmp_path, 1)
    log = str(caught.value).partition("its messages: ")[2]
    assert "No module named" in Path(log).read_text()


def test_ctrl_c_ends_the_training(tmp_path, monkeypatch, importable):
    """It would otherwise work in the folder until its next event, which may be seconds."""
    monkeypatch.setattr(killing, "TRAINING", "lab.studies.resume.pretended_training")
    processes, start = [], killing.start
    monkeypatch.setattr(killing, "start", lambda job: processes.append(start(job)) or processes[-1])

    def interrupt(line):
        raise KeyboardInterrupt

    monkeypatch.setattr(killing.json, "loads", interrupt)
    with pytest.raises(KeyboardInterrupt):
        kill_test(small_run(tmp_path), "graph", tmp_path / "kills", 1, seed=1, tell=print)
    (process,) = processes
    assert process.wait(timeout=1) == -signal.SIGKILL


def test_a_start_from_elsewhere_is_an_error(tmp_path):
    kill = {"checkpoint": 10, "resumed_after": 5}
    with pytest.raises(ExperimentError, match="had checkpoint 10, but .* went on after 5"):
        refuse_another_start(kill, True, tmp_path)
    kill["resumed_after"] = None
    refuse_another_start(kill, True, tmp_path)  # killed before it said anything
    with pytest.raises(ExperimentError, match="had checkpoint 10, but .* after None"):
        refuse_another_start(kill, False, tmp_path)


def test_one_bit_of_a_curve_is_seen(tmp_path):
    for name, loss in (("a", b"0.5"), ("b", b"0.50000006")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "loss.csv").write_bytes(b"step,epoch,loss\n1,1,%s\n" % loss)
        (tmp_path / name / "accuracy.csv").write_bytes(b"")
    assert differing(tmp_path / "a", tmp_path / "a") == []
    assert differing(tmp_path / "a", tmp_path / "b") == ["loss.csv"]
    for name, step in (("a", 10), ("a", 20), ("b", 10), ("b", 20)):
        (tmp_path / name / "checkpoints").mkdir(exist_ok=True)
        content = b"\0" if (name, step) == ("b", 20) else b""
        (tmp_path / name / f"checkpoints/step-{step:08d}.ckpt").write_bytes(content)
    last = "checkpoints/step-00000020.ckpt"
    assert differing(tmp_path / "a", tmp_path / "b") == ["loss.csv", last]
