"""`ms-adam reproduce` on configs/resume.yaml: messages, exit statuses, refused options."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab.studies.resume.training_config import write_config

PROJECT = Path(__file__).parents[3]
CONFIG = PROJECT / "configs" / "resume.yaml"
COMMAND = [sys.executable, "-c", "from ms_adam.lab.cli import main; main()", "reproduce"]


@pytest.mark.parametrize(
    "old, new, says",
    [
        (
            "keep: 3 ",
            "keep: 1 ",
            "checkpoints.keep = 1: input should be greater than or equal to 2",
        ),
        ("name: AdamW", "name: Adamw", "optimizer.name = 'Adamw'"),
        ("beta1: 0.9", "beta1: 1.0", "optimizer.beta1 = 1.0: input should be less than 1"),
        (
            "backend: auto",
            "backends: auto",
            "unknown key 'optimizer.backends'; allowed here: name,",
        ),
        ("batch_size: 100", "batch_size: 4001", "training.batch_size = 4001 is more than"),
    ],
)
def test_wrong_config_is_told_before_anything_is_made(invoke, tmp_path, old, new, says):
    assert old in CONFIG.read_text()
    config = tmp_path / "wrong.yaml"
    config.write_text(CONFIG.read_text().replace(old, new))
    result = invoke("reproduce", config, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert says in result.output and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def run(folder, *arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_ctrl_c_and_on(tmp_path):
    """In real processes: progress, Ctrl-C, --resume, a damaged file, and every message."""
    config = write_config(tmp_path, training={"epochs": 2000})
    process = subprocess.Popen(
        [*COMMAND, str(config)],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    checkpoints = tmp_path / "runs/small/checkpoints"
    lines = iter(process.stderr)
    assert "small, graph: 1 of 8,000 steps" in next(lines)
    while len(list(checkpoints.glob("step-*.ckpt"))) < 3 and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"stopped after step \d+ of 8000; --resume goes on from .*-\d+\.ckpt", rest)
    assert "Traceback" not in rest

    newest = max(checkpoints.glob("step-*.ckpt"))
    os.chmod(newest, 0o600)
    newest.write_bytes(newest.read_bytes()[:-30])
    last = int(newest.stem[5:])
    # Its epochs are part of what the checkpoint is of.
    refused = run(tmp_path, write_config(tmp_path, training={"epochs": 1}), "--resume")
    assert refused.returncode == 2
    assert f"{newest.name}: is damaged" in refused.stderr
    assert "training.epochs = 2000 there, 1 here" in refused.stderr
    again = run(tmp_path, config, "--out", "runs/small")
    assert again.returncode == 2 and "holds a training: --resume goes on with it" in again.stderr
    assert last > 5


def test_to_the_end(tmp_path):
    done = run(tmp_path, write_config(tmp_path), "--mode", "pynative", "--json", "a.json")
    assert done.returncode == 0, done.stderr
    assert re.match(
        r"24 steps, backend fused: loss [\d.]+ at first, [\d.]+ at last; [\d.]+% of", done.stdout
    )
    out = tmp_path / "runs/small"
    assert (tmp_path / "a.json").read_text() == (out / "train.json").read_text()
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "small, pynative: 24 of 24 steps" in done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize(
    "config, option, knows",
    [
        ("resume", ("--scale", "quick"), "scale: the study resume"),
        ("quick", ("--resume",), "resume: the study images"),
        ("text", ("--kills", "3"), "kills: the study text"),
    ],
)
def test_an_option_of_another_study_is_refused(invoke, tmp_path, config, option, knows):
    config = PROJECT / "configs" / f"{config}.yaml"
    result = invoke("reproduce", config, "--out", tmp_path / "out", *option)
    assert result.exit_code == 2
    assert f"--{knows} does not understand it; only" in result.output
    assert not (tmp_path / "out").exists()


def test_several_configs_need_a_folder(invoke):
    result = invoke("reproduce", CONFIG, PROJECT / "configs" / "quick.yaml")
    assert result.exit_code == 2 and "several configs need --out DIR" in result.output
