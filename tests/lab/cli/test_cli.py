"""The command: help that teaches, errors without a stack trace, exit status."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from ms_adam.lab.errors import Interrupted
from ms_adam.lab.run import study
from ms_adam.lab.studies.images.study import STUDY

QUICK = Path(__file__).parents[3] / "configs" / "quick.yaml"


@pytest.fixture
def finished(monkeypatch):
    """Lets the runs end at once, with the verdicts that a test wants."""

    def with_statuses(*statuses):
        verdicts = [
            {"status": status, "claim": "c [x]", "measured": "m", "limit": "l"}
            for status in statuses
        ]
        content = {"schema": 1, "results": [{"verdicts": verdicts}]}
        done = study.Done(STUDY, Path("out"), content, Path("out/index.html"))
        monkeypatch.setattr(study, "run_studies", lambda *_: [done])

    return with_statuses


def test_help(invoke):
    assert "reproduce" in invoke("--help").output
    text = " ".join(invoke("reproduce", "--help").output.split())
    for part in ("CONFIG", "--out", "--json", "--debug", "Example:", "Exit status:"):
        assert part in text


def test_version(invoke):
    assert importlib.metadata.version("ms_adam") in invoke("--version").output


def test_old_python_is_told_so_before_anything_else():
    program = "import sys; sys.version_info = (3, 7, 16, 'final', 0); import ms_adam.lab.cli"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        b"ms-adam needs Python 3.9 or newer, but this is Python 3.7. The "
        b"optimizer runs here: import ms_adam.\n"
    )


@pytest.mark.parametrize("release, status", [("2.0.0", 1), ("2.7.0", 2)])
def test_old_mindspore_is_told_so(invoke, monkeypatch, release, status):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: release)
    done = invoke("reproduce", "none.yaml", "--out", "x")
    assert done.exit_code == status
    says = "ms-adam needs MindSpore 2.7 or newer, but this is MindSpore 2.0.0."
    assert (says in done.output) == (release == "2.0.0")


def test_help_of_every_command_is_quick():
    """What commands need is imported when they run."""
    program = (
        "import sys; from typer.testing import CliRunner; from ms_adam.lab import cli\n"
        "for command in cli.app.registered_commands:\n"
        "    name = command.callback.__name__.replace('_', '-')\n"
        "    help = CliRunner().invoke(cli.app, [name, '--help'])\n"
        "    assert help.exit_code == 0 and 'Usage' in help.output, help.output\n"
        "slow = {'mindspore', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_missing_extra_is_named():
    program = "import sys; sys.modules['typer'] = None; import ms_adam.lab.cli"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "ms-adam needs the package typer: pip install 'ms_adam[cli]'"


def test_unknown_key_is_one_message(invoke, tmp_path):
    config = tmp_path / "wrong.yaml"
    config.write_text(QUICK.read_text().replace("epochs: 20", "epoches: 20"))
    result = invoke("reproduce", config, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "unknown key 'training.epoches'; allowed here: epochs, batch_size" in result.output
    assert "the key 'training.epochs' is missing" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_trace(invoke, tmp_path):
    result = invoke("reproduce", tmp_path / "none.yaml", "--out", tmp_path, "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.output and "there is no such file" in result.output


def test_folder_that_can_not_be_written(invoke, tmp_path):
    (tmp_path / "taken").write_text("a file")
    result = invoke("reproduce", QUICK, "--out", tmp_path / "taken")
    assert result.exit_code == 2
    assert "taken" in result.output and "Traceback" not in result.output


def test_fault_of_ours_is_told_without_trace(invoke, tmp_path, monkeypatch):
    def fault(*_):
        raise ZeroDivisionError("seven by nothing")

    monkeypatch.setattr(study, "run_studies", fault)
    result = invoke("reproduce", QUICK, "--out", tmp_path)
    assert result.exit_code == 2
    assert "ZeroDivisionError: seven by nothing (--debug shows where)" in result.output


def test_interrupt_has_its_status(invoke, tmp_path, monkeypatch):
    def interrupt(*_):
        raise Interrupted("stopped: 2 of 15 runs are kept")

    monkeypatch.setattr(study, "run_studies", interrupt)
    result = invoke("reproduce", QUICK, "--out", tmp_path)
    assert result.exit_code == 130
    assert "2 of 15 runs" in result.output


@pytest.mark.parametrize(
    "statuses, exit_code",
    [(("held", "held"), 0), (("held", "not held"), 1), (("held", "not measured"), 1)],
)
def test_exit_status_and_summary(invoke, finished, tmp_path, statuses, exit_code):
    finished(*statuses)
    copy = tmp_path / "copy.json"
    result = invoke("reproduce", QUICK, "--out", tmp_path, "--json", copy)
    assert result.exit_code == exit_code
    assert f"{statuses.count('held')} of 2 claims held" in result.output
    assert "c [x]" in result.output  # brackets are text, not colour
    assert copy.exists()
