"""MindCV's own train.py, unchanged, under `ms-adam watch`.

It is in MindCV's repository only, and in neither its wheel nor its source archive. The environment
variable MINDCV_REPOSITORY names a clone, or a folder with its train.py and config.py. Without it
these tests do not run, and say so.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_adam.lab.studies.watch import study, verdict

FOLDER = os.environ.get("MINDCV_REPOSITORY")
TRAIN, CONFIG = (Path(FOLDER or "").resolve() / name for name in ("train.py", "config.py"))
pytestmark = pytest.mark.skipif(
    not (FOLDER and TRAIN.is_file() and CONFIG.is_file()),
    reason="not run: MINDCV_REPOSITORY does not name a clone of MindCV",
)

GRAPH, PYNATIVE = "0", "1"
EPOCHS, BATCHES, RATE = 2, 6, 1e-3
OPTIONS = {
    "--model": "squeezenet1_1",
    "--num_classes": "2",
    "--image_resize": "32",
    "--batch_size": "4",
    "--epoch_size": str(EPOCHS),
    "--lr": str(RATE),
    "--warmup_epochs": "0",
    "--log_interval": "1",
    "--num_parallel_workers": "1",
    # On the CPU, dropout differs from run to run under one seed, unwatched too.
    "--drop_rate": "0",
    # The CPU has no other mode; train.py then looks for the optimizer in the right place.
    "--dataset_sink_mode": "False",
}
DECAYED = ("--opt", "adamw", "--weight_decay", "0.05")
TAIL = ("--ema", "--ema_decay", "0.9", "--clip_grad", "--clip_value", "0.5", "--loss_scale", "1024")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of two classes of JPEG files, dark ones and bright ones."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label, brightness in enumerate((60, 180)):
        of_class = folder / "train" / f"class{label}"
        of_class.mkdir(parents=True)
        for number in range(2 * BATCHES):
            pixels = np.clip(random.normal(brightness, 40, (40, 40, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(of_class / f"{number}.jpg")
    return folder


@pytest.fixture
def training(images, tmp_path, monkeypatch, capfd):
    """Runs train.py; returns its exit status, the losses that it logs and its checkpoints.

    Given `start`, which runs a command, each time in a folder of its own.
    """

    def run(start, mode, *arguments):
        options = [word for option in OPTIONS.items() for word in option]
        command = [sys.executable, str(TRAIN), "--data_dir", str(images), "--mode", mode]
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        status = start([*command, *options, *arguments])
        printed = capfd.readouterr().out
        losses = re.findall(r"batch: \[\d+/\d+\], loss: (\S+), lr: \S+,", printed)
        files = {file.name: file.read_bytes() for file in (folder / "ckpt").glob("*.ckpt")}
        assert len(losses) == EPOCHS * BATCHES and len(files) > EPOCHS  # the optimizer's, too
        return status, losses, files

    return run


def alone(command):
    """Runs a command without watch."""
    return subprocess.run(command, check=False).returncode


def watched(folder, replace=None):
    """Returns a function that runs a command under watch."""
    return lambda command: study.run(command, folder, every=1, replace=replace)


def account_in(folder):
    """Returns the account of the one optimizer that was followed."""
    (record,) = study.records(folder)
    found = verdict.summed_up(record)
    assert not found["faults"], found["faults"][0]["traceback"]
    assert found["lost"] is None and found["not_finite"] is None
    assert found["looks"] == found["calls"] == EPOCHS * BATCHES
    return found


@pytest.mark.parametrize(
    "mode, arguments, formula",
    [
        (GRAPH, DECAYED, "Algorithm 1, decoupled decay"),
        (GRAPH, ("--opt", "adam", "--weight_decay", "0"), "epsilon-hat"),
        (GRAPH, (*DECAYED, *TAIL), "Algorithm 1, decoupled decay"),
        (PYNATIVE, DECAYED, "Algorithm 1, decoupled decay"),
        (PYNATIVE, ("--opt", "adam", "--weight_decay", "0.05", *TAIL), "epsilon-hat, L2"),
    ],
    ids=["graph-adamw", "graph-adam", "graph-adamw-tail", "pynative-adamw", "pynative-adam-tail"],
)
def test_it_computes_the_same_bits_and_its_formula_is_found(
    mode, arguments, formula, training, tmp_path
):
    plain = training(alone, mode, *arguments)
    assert plain[0] == 0
    assert training(watched(tmp_path), mode, *arguments) == plain
    found = account_in(tmp_path)
    assert found["mode"] == {GRAPH: "graph", PYNATIVE: "pynative"}[mode]
    assert found["formula"] == formula and formula in found["verdict"]
    assert found["gradients"] == ("moments" if mode == GRAPH else "given")
    assert found["rates"][1] == pytest.approx(RATE) and found["rates"][0] < RATE
    decay = float(arguments[arguments.index("--weight_decay") + 1])
    assert found["decays"] == pytest.approx([decay, decay])
    assert found["skipped"]["without"] == 0
    # As in tests/lab: float32's rounding of an update; nn.Adam rounds 1 - beta2 besides.
    assert found["own"]["most"] < 2e-5


def test_ms_adam_takes_the_place_of_its_optimizer(training, tmp_path):
    plain = training(alone, GRAPH, *DECAYED)
    status, losses, files = training(watched(tmp_path, "paper"), GRAPH, *DECAYED)
    assert status == plain[0] == 0 and files.keys() == plain[2].keys()
    found = account_in(tmp_path)
    assert found["name"] == "ms_adam.AdamW" and found["formula"] == "Algorithm 1, decoupled decay"
    # Float32's rounding, amplified by the training, and that of the log; measured up to 7e-6.
    np.testing.assert_allclose(*(np.float64(each) for each in (losses, plain[1])), rtol=1e-4)
    assert losses != plain[1]
