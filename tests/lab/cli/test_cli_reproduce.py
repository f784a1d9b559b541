"""``ms-adam reproduce``: configs and options that are refused, what ends a run, exit statuses."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lab.run.changed_configs import write
from lab.studies.reproduced import COMMAND, interrupt
from lab.studies.resume.training_config import write_config
from lab.studies.trajectories.small_comparison import linear, small

from ms_adam.lab.errors import Interrupted
from ms_adam.lab.report.studies import trajectories as pictures
from ms_adam.lab.run.launch import RankError
from ms_adam.lab.studies.images import study as images
from ms_adam.lab.studies.ranks import study as ranks
from ms_adam.lab.studies.trajectories import following

CONFIGS = Path(__file__).parents[3] / "configs"
QUICK, RANKS, RESUME = (CONFIGS / f"{name}.yaml" for name in ("quick", "ranks", "resume"))


# --- what a study returns or raises --------------------------------------------------------------


@pytest.fixture
def ends(monkeypatch):
    """Lets the studies of images and ranks return or raise at once; what they were given."""
    given = []

    def with_what(content):
        def run(configs, session):
            given.append((configs[0].name, session.out, session.options))
            session.out.mkdir(parents=True, exist_ok=True)
            session.progress(configs[0].name, "graph", 1, 1)
            if isinstance(content, BaseException):
                raise content
            return content

        for module in (images, ranks):
            stand_in = dataclasses.replace(module.STUDY, run=run, page=None)
            monkeypatch.setattr(module, "STUDY", stand_in)
        return given

    return with_what


def content(*statuses):
    verdicts = [
        {"claim": f"claim {i} [x]", "status": status, "measured": "m", "limit": "l", "why": ""}
        for i, status in enumerate(statuses)
    ]
    return {"schema": 1, "environment": {}, "results": [{"verdicts": verdicts}]}


@pytest.mark.parametrize("config", [QUICK, RANKS])
@pytest.mark.parametrize(
    "statuses, exit_code",
    [(("held", "held"), 0), (("held", "not held"), 1), (("held", "not measured"), 1)],
)
def test_exit_status_and_summary(invoke, ends, tmp_path, config, statuses, exit_code):
    ends(content(*statuses))
    result = invoke("reproduce", config, "--out", tmp_path)
    assert result.exit_code == exit_code, result.output
    words = " ".join(result.output.split())
    for i, status in enumerate(statuses):
        assert f"claim {i} [x]" in words and status in words  # brackets are text, not colour
    assert f"{statuses.count('held')} of 2 claims held" in words


def test_figures_that_are_not_reproduced_are_a_finding(invoke, ends, tmp_path):
    ends(content("reproduced", "not reproduced", "inconclusive", "reproduced"))
    result = invoke("reproduce", QUICK, "--out", tmp_path)
    assert result.exit_code == 0
    assert "2 reproduced, 1 not reproduced, 1 inconclusive." in result.output


def test_options_and_json(invoke, ends, tmp_path):
    given, copy = ends(content("held")), tmp_path / "new" / "copy.json"
    out = tmp_path / "out"
    result = invoke("reproduce", RANKS, "--out", out, "--resume", "--json", copy)
    assert result.exit_code == 0, result.output
    assert given == [("ranks", out, {"resume": True})]
    assert json.loads(copy.read_text()) == content("held")


def test_two_studies_have_a_folder_each(invoke, ends, tmp_path):
    given, copy = ends(content("held")), tmp_path / "copy.json"
    result = invoke("reproduce", QUICK, RANKS, "--out", tmp_path, "--json", copy)
    assert result.exit_code == 0, result.output
    assert [out for _, out, _ in given] == [tmp_path / "images", tmp_path / "ranks"]
    assert "2 of 2 claims held" in result.output
    assert set(json.loads(copy.read_text())["studies"]) == {"images", "ranks"}
    result = invoke("reproduce", QUICK, RANKS)
    assert result.exit_code == 2 and "several configs need --out DIR" in result.output


@pytest.mark.parametrize(
    "error, exit_code, says",
    [
        (RankError("rank 1 of 2 was killed or crashed"), 2, "ms-adam: rank 1 of 2 was killed"),
        (Interrupted("stopped: 2 of 15 runs are kept"), 130, "ms-adam: stopped: 2 of 15 runs"),
        (
            ZeroDivisionError("seven by nothing"),  # a fault of ours
            2,
            "ms-adam: ZeroDivisionError: seven by nothing (--debug shows where)",
        ),
    ],
)
def test_what_ends_it_is_told(invoke, ends, tmp_path, error, exit_code, says):
    ends(error)
    result = invoke("reproduce", RANKS, "--out", tmp_path)
    assert result.exit_code == exit_code
    assert says in result.output and "Traceback" not in result.output
    assert "Traceback" in invoke("reproduce", RANKS, "--out", tmp_path, "--debug").output


# --- configs and options -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config, old, new, says",
    [
        (QUICK, "epochs: 20", "epoches: 20", "unknown key 'training.epoches'; allowed here: epoch"),
        (QUICK, "epochs: 20", "epoches: 20", "the key 'training.epochs' is missing"),
        (QUICK, "study: images", "study: image", "study = 'image': must be one of images, text"),
        (RANKS, "batch_size: 128", "batch_size: 126", "126 cannot be divided among 4 workers"),
        (RESUME, "keep: 3 ", "keep: 1 ", "keep = 1: input should be greater than or equal to 2"),
        (RESUME, "name: AdamW", "name: Adamw", "optimizer.name = 'Adamw'"),
        (RESUME, "beta1: 0.9", "beta1: 1.0", "beta1 = 1.0: input should be less than 1"),
        (RESUME, "backend: auto", "backends: auto", "'optimizer.backends'; allowed here: name,"),
        (RESUME, "batch_size: 100", "batch_size: 4001", "batch_size = 4001 is more than"),
    ],
)
def test_wrong_config_is_told_before_anything_is_made(invoke, tmp_path, config, old, new, says):
    assert old in config.read_text()
    wrong = write(tmp_path, config.read_text().replace(old, new))
    result = invoke("reproduce", wrong, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert says in " ".join(result.output.split()) and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_missing_config(invoke, tmp_path):
    result = invoke("reproduce", tmp_path / "none.yaml", "--out", tmp_path, "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.output and "none.yaml: there is no such file" in result.output


def test_folder_that_cannot_be_written(invoke, tmp_path):
    (tmp_path / "taken").write_text("a file")
    result = invoke("reproduce", QUICK, "--out", tmp_path / "taken")
    assert result.exit_code == 2
    assert "taken: must be a folder" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "config, option, says",
    [
        (RESUME, ("--scale", "quick"), "--scale: the study resume"),
        (QUICK, ("--resume",), "--resume: the study images"),
        (QUICK, ("--kills", "3"), "--kills: the study images"),
    ],
)
def test_an_option_of_another_study_is_refused(invoke, tmp_path, config, option, says):
    result = invoke("reproduce", config, "--out", tmp_path / "out", *option)
    assert result.exit_code == 2
    assert f"{says} does not understand it; only" in result.output
    assert not (tmp_path / "out").exists()


# --- a training that is stopped ------------------------------------------------------------------


def run(folder, *arguments, command=COMMAND):
    command = [*command, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_ctrl_c_and_on(tmp_path):
    """In real processes: progress, Ctrl-C, --resume, a damaged file, and every message."""
    config = write_config(tmp_path, training={"epochs": 2000})
    checkpoints = tmp_path / "runs/small/checkpoints"

    def kept():
        return sorted(checkpoints.glob("step-*.ckpt"))

    words = interrupt(tmp_path, config, ready=lambda _: len(kept()) >= 3)
    assert words.startswith("small, graph: 1 of 8,000 steps")
    assert re.search(r"stopped after step \d+ of 8000; --resume goes on from .*-\d+\.ckpt", words)

    newest = kept()[-1]
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
    assert "The report: runs/small/curves.png" in done.stdout
    assert (tmp_path / "a.json").read_text() == (out / "train.json").read_text()
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "small, pynative: 24 of 24 steps" in done.stderr
    assert "WARNING" not in done.stderr


# --- trajectories --------------------------------------------------------------------------------

FILES = ["heights.npz", "index.html", "small_contours.png", "small_values.png", "trajectories.json"]


@pytest.fixture
def follow(invoke, tmp_path):
    """Runs the command on a config of these keys; (its result, the folder that it writes to)."""

    def run(*arguments, base=None, **changes):
        file, out = write(tmp_path, {**(base or small()), **changes}), tmp_path / "out"
        return invoke("reproduce", file, "--out", out, *arguments), out

    return run


def names(folder: Path):
    return sorted(path.name for path in folder.iterdir())


def test_without_mindspore_it_is_not_imported(tmp_path):
    config = write(tmp_path, small())
    program = (
        "import sys; from ms_adam.lab import cli\n"
        "try: cli.main()\n"
        "finally: assert 'mindspore' not in sys.modules\n"
    )
    arguments = ("reproduce", config, "--out", "o")
    done = run(tmp_path, *arguments, command=(sys.executable, "-c", program))
    assert done.returncode == 0, done.stderr
    assert "trajectories.json" in names(tmp_path / "o")


def test_files_and_json(follow, tmp_path):
    result, out = follow("--json", tmp_path / "copy.json")
    assert result.exit_code == 0, result.output
    assert names(out) == FILES and "The report: " in result.output
    content = json.loads((out / "trajectories.json").read_text())
    assert content["schema"] == 1 and "numpy" in content["environment"]
    assert {"function", "optimizer", "points", "values"} <= set(content["results"][0])
    assert content == json.loads((tmp_path / "copy.json").read_text())


def test_linear_fit(follow):
    result, out = follow(base=linear())
    assert result.exit_code == 0, result.output
    assert names(out) == ["index.html", "quadratics.npy", "small_losses.png", "trajectories.json"]


def test_a_distance_that_roundings_do_not_explain_is_a_failure(follow, monkeypatch):
    result, _ = follow(mindspore=True)
    assert result.exit_code == 0, result.output
    assert "mindspore.nn.SGD" in "".join(result.output.split())
    bounds = following.path_bounds
    monkeypatch.setattr(following, "path_bounds", lambda *path: bounds(*path) / 1e4)
    result, out = follow(mindspore=True)
    assert result.exit_code == 1
    assert "trajectories.json" in names(out)  # what failed can be looked at


def test_an_unknown_method_is_one_message(follow):
    result, out = follow(optimizers=[{**small()["optimizers"][0], "method": "Adamm"}])
    assert result.exit_code == 2 and not out.exists() and "Traceback" not in result.output
    assert "optimizers, SGD: there is no method 'Adamm'" in result.output


def test_ctrl_c_leaves_no_pictures_of_other_results(follow, monkeypatch):
    _, out = follow()
    (out / "trajectories.json").write_text("old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "value_plot", interrupted)
    result, _ = follow()
    assert result.exit_code == 130
    assert names(out) == ["heights.npz", "trajectories.json"]
    assert json.loads((out / "trajectories.json").read_text())["results"]
