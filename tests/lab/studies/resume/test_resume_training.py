"""A training that is stopped and resumed has the bits of one that was not."""

import fcntl
import json
import os

import mindspore
import numpy as np
import pytest
from lab.studies.resume.training_config import small_run

from ms_adam.lab.errors import ExperimentError, Interrupted
from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.studies.resume import training
from ms_adam.lab.studies.resume.training import train_run

CURVES = ("loss.csv", "accuracy.csv")


def curves(out):
    return [(out / name).read_bytes() for name in CURVES]


class Trainer:
    """Trains small runs in one folder, and keeps what was told."""

    def __init__(self, folder, mode):
        self.folder, self.mode, self.told = folder, mode, []

    def __call__(self, run, out, resume=False, stop_after=None):
        def progress(name, mode, done, total):
            if done == stop_after:
                raise KeyboardInterrupt

        self.told.clear()
        return train_run(run, self.mode, self.folder / out, resume, self.told.append, progress)

    def stopped(self, run, out, after, resume=False):
        with pytest.raises(Interrupted) as stop:
            self(run, out, resume, stop_after=after)
        return str(stop.value)


@pytest.fixture
def trainer(tmp_path, mode):
    return Trainer(tmp_path, mode)


@pytest.fixture
def graph_trainer(tmp_path):
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    return Trainer(tmp_path, "graph")


@pytest.mark.parametrize(
    "mode, optimizer",
    [
        ("graph", {}),
        ("pynative", {}),
        (
            "graph",
            {
                "name": "Adam",
                "learning_rate_decay": "none",
                "use_amsgrad": True,
                "use_nesterov": True,
                "flat_state": True,
                "max_grad_norm": 0.5,
                "weight_decay": 0.1,
            },
        ),
        ("graph", {"backend": "composite", "epsilon_hat": True, "bias_correction": False}),
    ],
    ids=["graph", "pynative", "flat", "composite"],
    indirect=["mode"],
)
def test_stopped_twice_equals_undisturbed(trainer, optimizer):
    run = small_run(trainer.folder, optimizer=optimizer)
    content = trainer(run, "whole")
    assert "goes on from" in trainer.stopped(run, "parts", 8)
    assert (trainer.folder / "parts/loss.csv").read_bytes().count(b"\n") == 9
    trainer.stopped(run, "parts", 17, resume=True)
    assert trainer.told == [
        f"goes on after step 5, from {trainer.folder}/parts/checkpoints/step-00000005.ckpt"
    ]
    resumed = trainer(run, "parts", resume=True)
    assert curves(trainer.folder / "whole") == curves(trainer.folder / "parts")
    assert resumed["results"][0]["resumed_after_step"] == 15
    for key in ("first_loss", "last_loss", "test_accuracy", "steps", "backend"):
        assert resumed["results"][0][key] == content["results"][0][key]
    losses = np.loadtxt(trainer.folder / "whole/loss.csv", delimiter=",", skiprows=1)
    assert losses[:, 0].tolist() == list(range(1, 25)) and losses[-1, 2] < losses[0, 2]
    assert losses[:, 1].tolist() == [1 + step // 4 for step in range(24)]


def test_the_comparison_sees_a_lost_moment(graph_trainer, monkeypatch):
    """Were the state not restored, the curve would be another."""
    run = small_run(graph_trainer.folder)
    graph_trainer(run, "whole")
    graph_trainer.stopped(run, "parts", 8)
    monkeypatch.setattr(training.ms_adam, "load_state", lambda *_: None)
    graph_trainer(run, "parts", resume=True)
    whole, parts = (curves(graph_trainer.folder / name)[0] for name in ("whole", "parts"))
    assert whole != parts


def test_damaged_file_falls_back_and_says_so(graph_trainer):
    run = small_run(graph_trainer.folder)
    graph_trainer(run, "whole")
    graph_trainer.stopped(run, "parts", 12)
    newest = graph_trainer.folder / "parts/checkpoints/step-00000010.ckpt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    os.chmod(newest, 0o600)
    newest.write_bytes(content)
    graph_trainer(run, "parts", resume=True)
    damaged, goes_on = graph_trainer.told
    assert str(newest) in damaged and "is damaged" in damaged
    assert goes_on.startswith("goes on after step 5") and "the last good checkpoint" in goes_on
    assert curves(graph_trainer.folder / "whole") == curves(graph_trainer.folder / "parts")


def test_other_mode_goes_on_and_says_so(graph_trainer):
    run = small_run(graph_trainer.folder)
    graph_trainer(run, "whole")
    graph_trainer.stopped(run, "parts", 8)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    graph_trainer.mode = "pynative"
    graph_trainer(run, "parts", resume=True)
    assert graph_trainer.told[-1] == "the steps so far were made in graph mode"
    assert curves(graph_trainer.folder / "whole") == curves(graph_trainer.folder / "parts")


def test_lines_that_are_lost_are_told(graph_trainer):
    run = small_run(graph_trainer.folder)
    graph_trainer.stopped(run, "parts", 8)
    (graph_trainer.folder / "parts/loss.csv").write_text("step,epoch,loss\n1,1,0.5\n")
    graph_trainer(run, "parts", resume=True)
    assert "lacks the steps from 2 to 5" in graph_trainer.told[-1]


def test_resume_of_nothing_and_of_all(graph_trainer):
    run = small_run(graph_trainer.folder)
    graph_trainer(run, "out", resume=True)
    assert "holds no checkpoint: the training starts at the first step" in graph_trainer.told[0]
    before = curves(graph_trainer.folder / "out")
    content = graph_trainer(run, "out", resume=True)
    assert content["results"][0]["resumed_after_step"] == run.steps == 24
    assert curves(graph_trainer.folder / "out") == before
    written = json.loads((graph_trainer.folder / "out/train.json").read_text())
    assert written == content and str(graph_trainer.folder) not in json.dumps(written)


def test_a_training_is_not_overwritten(graph_trainer):
    run = small_run(graph_trainer.folder)
    graph_trainer.stopped(run, "out", 2)
    before = curves(graph_trainer.folder / "out")
    with pytest.raises(ExperimentError, match="holds a training: --resume"):
        graph_trainer(run, "out")
    assert curves(graph_trainer.folder / "out") == before


def test_another_training_is_refused_with_what_differs(graph_trainer):
    graph_trainer.stopped(small_run(graph_trainer.folder), "out", 8)
    before = curves(graph_trainer.folder / "out")
    other = small_run(
        graph_trainer.folder,
        optimizer={"beta1": 0.8},
        training={"seed": 4},
        data={"train": 60},
        title="Another name",
        checkpoints={"keep": 2},
    )
    with pytest.raises(ExperimentError) as error:
        graph_trainer(other, "out", resume=True)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines[:3] == [
        "data.train = 80 there, 60 here",
        "optimizer.beta1 = 0.9 there, 0.8 here",
        "training.seed = 3 there, 4 here",
    ]
    assert lines[3].startswith("images_sha256 = ") or len(lines) == 4
    assert curves(graph_trainer.folder / "out") == before


def test_two_processes_in_one_folder(graph_trainer):
    run = small_run(graph_trainer.folder)
    (graph_trainer.folder / "out").mkdir()
    with open(graph_trainer.folder / "out/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ExperimentError, match="another process trains in this folder"):
            graph_trainer(run, "out")


def test_loss_that_is_not_finite_ends_it(graph_trainer):
    run = small_run(graph_trainer.folder, optimizer={"learning_rate": 3e38})
    with pytest.raises(ExperimentError, match=r"the loss of step \d+ is (nan|inf)"):
        graph_trainer(run, "out")


def test_optimizer_that_can_not_be_made(graph_trainer):
    run = small_run(graph_trainer.folder, optimizer={"flat_state": True, "backend": "composite"})
    with pytest.raises(ConfigError, match="flat_state=True is for backend='fused'"):
        graph_trainer(run, "out")


def test_cosine():
    expected = [0.01 * (1 + np.cos(np.pi * step / 24)) / 2 for step in range(24)]
    np.testing.assert_allclose(training.cosine(0.01, 24), expected, rtol=1e-12, atol=1e-17)
