"""The kill test itself, in short: three kills of a small training."""

import json

import pytest
from lab.studies.resume.training_config import small_run

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.studies.resume.kill_test import Kill, differing, kill_test, refuse_another_start


def test_three_kills(tmp_path):
    # So many epochs that the steps take about a second.
    run = small_run(tmp_path, training={"epochs": 150}, checkpoints={"every_steps": 5})
    told = []
    content = kill_test(run, "graph", tmp_path / "kills", 3, seed=1, tell=told.append)
    result = content["results"][0]
    assert len(result["kills"]) == 3 and len(told) == 4
    assert all(training == {"differing": []} for training in result["trainings"])
    assert any(kill["resumed_after"] for kill in result["kills"])  # and went on where it was
    for kill in result["kills"]:
        assert kill["checkpoint"] is None or kill["checkpoint"] <= kill["lines"] <= run.steps
    assert json.loads((tmp_path / "kills/kills.json").read_text()) == content


def test_a_start_from_elsewhere_is_an_error(tmp_path):
    kill = Kill(1, 12, checkpoint=10, half_written=False, resumed_after=5)
    with pytest.raises(ExperimentError, match="had checkpoint 10, but .* went on after 5"):
        refuse_another_start(kill, True, tmp_path)
    kill.resumed_after = None
    refuse_another_start(kill, True, tmp_path)  # killed before it said anything
    with pytest.raises(ExperimentError, match="had checkpoint 10, but .* after None"):
        refuse_another_start(kill, False, tmp_path)


def test_one_bit_of_a_curve_is_seen(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "loss.csv").write_bytes(b"step,epoch,loss\n1,1,0.5\n")
        (tmp_path / name / "accuracy.csv").write_bytes(b"")
    assert differing(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b/loss.csv").write_bytes(b"step,epoch,loss\n1,1,0.50000006\n")
    assert differing(tmp_path / "a", tmp_path / "b") == ["loss.csv"]
