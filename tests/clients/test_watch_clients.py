"""`ms-adam watch` on scripts of users: the same bits, and the formulas of docs/clients.md.

watched_mindcv.py calls what MindCV's train.py calls; test_mindcv_train.py runs that itself, from a
clone of MindCV. MindFormers' Trainer is its own.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from ms_adam.lab.studies.watch import study, verdict

HERE = Path(__file__).parent


@pytest.fixture
def watched(tmp_path, capfd):
    """Runs a script without and with watch; returns the accounts of its optimizers."""

    def run(script, *arguments, status=0):
        command = [sys.executable, str(HERE / script), *arguments]

        def printed():
            lines = capfd.readouterr().out.splitlines()
            return [line for line in lines if line.startswith(("loss", "weight"))]

        assert subprocess.run(command, check=False).returncode == status
        plain = printed()
        assert study.run(command, tmp_path / "watched", every=1) == status
        assert printed() == plain and len(plain) > 6
        accounts = [verdict.summed_up(record) for record in study.records(tmp_path / "watched")]
        for found in accounts:
            assert not found["faults"], found["faults"][0]["traceback"]
            assert found["lost"] is None and found["not_finite"] is None
        return accounts

    return run


@pytest.mark.parametrize(
    "name, formula", [("adamw", "Algorithm 1, decoupled decay"), ("adam", "epsilon-hat")]
)
def test_a_training_of_mindcv(name, formula, watched):
    """MindCV's AdamW counts a step whenever its get_lr() is called."""
    (found,) = watched("watched_mindcv.py", name)
    assert (found["calls"], found["looks"]) == (6, 6)
    assert found["gradients"] == "moments"  # the step is compiled as a whole
    assert found["formula"].startswith(formula)
    assert [float(f"{rate:.4g}") for rate in found["rates"]] == [float(f"{1e-3 / 6:.4g}"), 1e-3]
    # As in tests/lab: float32's rounding of an update; nn.Adam rounds 1 - beta2 besides.
    assert found["own"]["most"] < 2e-5


def test_a_training_by_the_trainer_of_mindformers(watched, monkeypatch, tmp_path):
    """The clipped gradients of a compiled step follow from the moments; the first rate is 0."""
    monkeypatch.setenv("LOG_MF_PATH", str(tmp_path / "log"))
    script = "watched_mindformers.py"
    (found,) = watched(script, "--config", str(HERE / "watched_mindformers.yaml"))
    assert found["class"] == "mindformers.core.optim.adamw.AdamW"
    assert (found["calls"], found["looks"]) == (6, 6)
    assert found["gradients"] == "moments"
    assert found["formula"].startswith("Algorithm 1, decoupled decay")
    assert found["rates"][0] == 0.0 and found["decays"] == pytest.approx([0.0, 0.1])
    assert found["skipped"]["without"] == 0
    assert found["own"]["most"] < 2e-5


@pytest.mark.parametrize(
    "name, mode, optimizers, gradients",
    [
        ("lstm", "graph", 1, "moments"),  # nn.TrainOneStepCell
        ("gan", "graph", 2, "given"),  # called from Python
        ("gan", "pynative", 2, "given"),
    ],
)
def test_a_tutorial(name, mode, optimizers, gradients, watched):
    accounts = watched("watched_tutorial.py", name, mode, status=3)
    assert len(accounts) == optimizers
    for found in accounts:
        assert found["name"] == "mindspore.nn.Adam" and found["mode"] == mode
        assert (found["calls"], found["looks"]) == (12, 12)
        assert found["formula"] == "epsilon-hat" and found["gradients"] == gradients
        assert found["own"]["most"] < 2e-5
