"""A training that is stopped and resumed has the bits of one that was not."""

import fcntl
import json
import os

import numpy as np
import pytest
from lab.studies.resume.training_config import small_run
from running import set_mode

from ms_adam.lab.errors import ExperimentError
from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.studies.resume import training
from ms_adam.lab.studies.resume.kill_test import differing

FIVE, TEN, LAST = (f"checkpoints/step-{step:08d}.ckpt" for step in (5, 10, 24))


class Trainer:
    """Does the worker's job on small runs in one folder; takes its events, keeps what was told."""

    def __init__(self, folder):
        self.folder, self.parts = folder, folder / "parts"

    def __call__(self, out="parts", stop_after=None, resume=False, mode="graph", **sections):
        self.told, self.stop_after = [], stop_after
        config = small_run(self.folder, **sections).model_dump(mode="json")
        folder = self.folder / out
        job = {"config": config, "mode": mode, "folder": str(folder), "resume": resume}
        if stop_after:
            with pytest.raises(KeyboardInterrupt):
                training.work(job, self)
            return None
        training.work(job, self)
        return json.loads((folder / "train.json").read_text())

    def send(self, event, message=None, done=None, resumed_after=None):
        if event == "told":
            self.told.append(message)
        elif done == self.stop_after:
            raise KeyboardInterrupt

    def curves(self):
        return [(self.parts / name).read_bytes() for name in ("loss.csv", "accuracy.csv")]


@pytest.fixture(scope="module", autouse=True)
def _mode_of_this_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "enter", set_mode)
        yield


@pytest.fixture
def trainer(tmp_path):
    return Trainer(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a training that is not disturbed."""
    trainer = Trainer(tmp_path_factory.mktemp("undisturbed"))
    trainer()
    return trainer.parts


ODD = {"accumulate_steps": 5}  # of 24 steps the last 4 make no update
FLAT = {
    "name": "Adam",
    "learning_rate_decay": "none",
    "use_amsgrad": True,
    "use_nesterov": True,
    "flat_state": True,
    "max_grad_norm": 0.5,
    "weight_decay": 0.1,
    "ema_decay": None,
    "dynamic_loss_scale": None,
}
COMPOSITE = {"backend": "composite", "epsilon_hat": True, "bias_correction": False}


@pytest.mark.parametrize(
    "mode, optimizer",
    [("graph", {}), ("pynative", ODD), ("graph", FLAT), ("graph", COMPOSITE)],
    ids=["graph", "pynative", "flat", "composite"],
)
def test_stopped_twice_equals_undisturbed(trainer, mode, optimizer):
    content = trainer("whole", mode=mode, optimizer=optimizer)
    trainer(stop_after=8, mode=mode, optimizer=optimizer)
    assert trainer.curves()[0].count(b"\n") == 9
    trainer(stop_after=17, resume=True, mode=mode, optimizer=optimizer)
    assert trainer.told == [f"goes on after step 5, from {trainer.parts / FIVE}"]
    resumed = trainer(resume=True, mode=mode, optimizer=optimizer)
    assert differing(trainer.parts, trainer.folder / "whole") == []
    assert resumed["results"][0]["resumed_after_step"] == 15
    for key in ("first_loss", "last_loss", "test_accuracy", "steps", "backend"):
        assert resumed["results"][0][key] == content["results"][0][key]
    losses = np.loadtxt(trainer.folder / "whole/loss.csv", delimiter=",", skiprows=1)
    assert losses[:, 0].tolist() == list(range(1, 25)) and losses[-1, 2] < losses[0, 2]
    assert losses[:, 1].tolist() == [1 + step // 4 for step in range(24)]


@pytest.mark.parametrize("lost", ["ema.", "scale_value", "counter"])
def test_a_lost_tail_is_seen_in_the_last_checkpoint(trainer, undisturbed, monkeypatch, lost):
    """The losses are the same without it."""
    trainer(stop_after=8)
    restore = training.ms_adam.load_state

    def forget(optimizer, given):
        restore(optimizer, given)
        for parameter in optimizer.get_parameters():
            if parameter.name.startswith(lost):
                parameter.set_data(parameter * 2)

    monkeypatch.setattr(training.ms_adam, "load_state", forget)
    trainer(resume=True)
    names = differing(trainer.parts, undisturbed)
    assert LAST in names and "loss.csv" not in names


def test_the_comparison_sees_a_lost_moment(trainer, undisturbed, monkeypatch):
    """Were the state not restored, the curve would be another."""
    trainer(stop_after=8)
    monkeypatch.setattr(training.ms_adam, "load_state", lambda *_: None)
    trainer(resume=True)
    assert "loss.csv" in differing(trainer.parts, undisturbed)


def test_damaged_file_falls_back_and_says_so(trainer, undisturbed):
    trainer(stop_after=12)
    newest = trainer.parts / TEN
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    os.chmod(newest, 0o600)
    newest.write_bytes(content)
    trainer(resume=True)
    damaged, goes_on = trainer.told
    assert str(newest) in damaged and "is damaged" in damaged
    assert goes_on.startswith("goes on after step 5") and "the last good checkpoint" in goes_on
    assert differing(trainer.parts, undisturbed) == []


def test_other_mode_goes_on_and_says_so(trainer, undisturbed):
    trainer(stop_after=8)
    trainer(resume=True, mode="pynative")
    assert trainer.told[-1] == "the steps so far were made in graph mode"
    assert differing(trainer.parts, undisturbed) == [LAST]  # which names the mode


def test_lines_that_are_lost_are_told(trainer):
    trainer(stop_after=8)
    (trainer.parts / "loss.csv").write_text("step,epoch,loss\n1,1,0.5\n")
    trainer(resume=True)
    assert "lacks the steps from 2 to 5" in trainer.told[-1]


def test_resume_of_nothing_and_of_all(trainer, undisturbed):
    trainer(resume=True)
    assert "holds no checkpoint: the training starts at the first step" in trainer.told[0]
    assert differing(trainer.parts, undisturbed) == []
    content = trainer(resume=True)
    assert content["results"][0]["resumed_after_step"] == 24
    assert differing(trainer.parts, undisturbed) == []
    assert str(trainer.folder) not in json.dumps(content)


OTHER = {
    "optimizer": {"beta1": 0.8},
    "training": {"seed": 4},
    "data": {"train": 60},
    "title": "Another name",
    "checkpoints": {"keep": 2},
}


def test_a_training_is_not_overwritten_nor_mixed_with_another(trainer):
    trainer(stop_after=8)
    before = trainer.curves()
    with pytest.raises(ExperimentError, match="holds a training: --resume"):
        trainer()
    with pytest.raises(ExperimentError) as error:
        trainer(resume=True, **OTHER)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert [line for line in lines if not line.startswith("images_sha256 = ")] == [
        "data.train = 80 there, 60 here",
        "optimizer.beta1 = 0.9 there, 0.8 here",
        "training.seed = 3 there, 4 here",
    ]
    assert len(lines) == 4 and trainer.curves() == before


def test_a_refused_resume_leaves_the_result(trainer):
    finished = trainer()
    with pytest.raises(ExperimentError, match="is of another training"):
        trainer(resume=True, **OTHER)
    assert json.loads((trainer.parts / "train.json").read_text()) == finished


def test_two_processes_in_one_folder(trainer):
    trainer.parts.mkdir()
    with open(trainer.parts / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ExperimentError, match="another process trains in this folder"):
            trainer()


@pytest.mark.parametrize(
    "optimizer, error, message",
    [
        ({"learning_rate": 3e38}, ExperimentError, r"the loss of step \d+ is (nan|inf)"),
        (
            {"flat_state": True, "backend": "primitive"},
            ConfigError,
            "flat_state=True is for backend='fused' or 'composite'",
        ),
    ],
)
def test_optimizer_that_cannot_train(trainer, optimizer, error, message):
    with pytest.raises(error, match=message):
        trainer(optimizer=optimizer)


def test_cosine():
    expected = [0.01 * (1 + np.cos(np.pi * step / 24)) / 2 for step in range(24)]
    np.testing.assert_allclose(training.cosine(0.01, 24), expected, rtol=1e-12, atol=1e-17)
