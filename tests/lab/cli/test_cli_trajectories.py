"""``ms-adam reproduce`` on paths: files whole or not at all, errors in one message, exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lab.studies.trajectories.small_comparison import linear, small

from ms_adam.atomic_write import atomic_write
from ms_adam.lab.report.studies import trajectories as pictures
from ms_adam.lab.studies.trajectories import following

CONFIG = small()
FILES = ["heights.npz", "small_contours.png", "small_values.png", "trajectories.json"]


@pytest.fixture
def reproduce(invoke, tmp_path):
    """Runs the command on a config of these keys; (its result, the folder that it writes to)."""

    def run(*arguments, base=CONFIG, **changes):
        file, out = tmp_path / "config.yaml", tmp_path / "out"
        file.write_text(yaml.safe_dump({**base, **changes}))
        return invoke("reproduce", file, "--out", out, *arguments), out

    return run


def names(folder: Path):
    return sorted(path.name for path in folder.iterdir())


def test_without_mindspore_it_is_not_imported(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    program = (
        "import sys; from ms_adam.lab import cli\n"
        "try: cli.main()\n"
        "finally: assert 'mindspore' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, "reproduce", str(file), "--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "trajectories.json" in names(tmp_path / "o")


def test_files_and_json(reproduce, tmp_path):
    result, out = reproduce("--json", tmp_path / "copy.json")
    assert result.exit_code == 0, result.output
    assert names(out) == FILES
    content = json.loads((out / "trajectories.json").read_text())
    assert content["schema"] == 1 and "numpy" in content["environment"]
    assert {"function", "optimizer", "points", "values"} <= set(content["results"][0])
    assert content == json.loads((tmp_path / "copy.json").read_text())


def test_linear_fit(reproduce):
    result, out = reproduce(base=linear())
    assert result.exit_code == 0, result.output
    assert names(out) == ["small_losses.png", "trajectories.json"]


def test_divergence_is_said(reproduce):
    places = [{**CONFIG["functions"][0], "function": "cubic", "start": [0, -2]}]
    optimizers = [{**CONFIG["optimizers"][0], "steps": 30}]
    result, out = reproduce(functions=places, optimizers=optimizers)
    assert result.exit_code == 0
    assert "cubic, SGD: diverges; not finite from step" in result.output
    assert "NaN" not in (out / "trajectories.json").read_text()


def test_distances_are_told(reproduce):
    result, _ = reproduce(mindspore=True)
    assert result.exit_code == 0, result.output
    assert "mindspore.nn.SGD" in "".join(result.output.split())


def test_a_distance_that_roundings_do_not_explain_is_a_failure(reproduce, monkeypatch):
    monkeypatch.setattr(following, "ROUNDING", following.ROUNDING / 1e4)
    result, out = reproduce(mindspore=True)
    assert result.exit_code == 1
    assert "trajectories.json" in names(out)  # what failed can be looked at


def test_errors_are_one_message(reproduce, tmp_path):
    result, out = reproduce(titel="x")
    assert result.exit_code == 2 and not out.exists()
    assert "unknown key 'titel'" in result.output and "Traceback" not in result.output
    result, out = reproduce(optimizers=[{**CONFIG["optimizers"][0], "method": "Adamm"}])
    assert result.exit_code == 2 and names(out) == []
    assert "optimizers, SGD: there is no method 'Adamm'" in result.output


def test_ctrl_c_leaves_no_pictures_of_other_results(reproduce, monkeypatch):
    _, out = reproduce()
    (out / "trajectories.json").write_text("old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "value_plot", interrupted)
    result, _ = reproduce()
    assert result.exit_code == 130
    # The new results are there, and no picture of the old ones, which would look like theirs.
    assert names(out) == ["heights.npz", "trajectories.json"]
    assert json.loads((out / "trajectories.json").read_text())["results"]


def test_draft_is_moved_whole(tmp_path):
    (tmp_path / "kept").write_text("old")
    with atomic_write(tmp_path) as writing:
        (writing / "new").write_text("new")
        assert not (tmp_path / "new").exists()
    assert names(tmp_path) == ["kept", "new"]
    with pytest.raises(ValueError), atomic_write(tmp_path) as writing:
        (writing / "kept").write_text("half")
        raise ValueError
    assert names(tmp_path) == ["kept", "new"] and (tmp_path / "kept").read_text() == "old"
