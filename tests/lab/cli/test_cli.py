"""The command: help, version, and messages where it cannot run."""

import importlib.metadata
import subprocess
import sys

import pytest


def test_help(invoke):
    output = invoke("--help").output
    for command in ("identify", "watch", "compare", "validate", "bench", "reproduce"):
        assert command in output


@pytest.mark.parametrize(
    "command, parts",
    [
        ("identify", "module.Class --set --all --markdown --json --debug Examples:"),
        ("validate", "--device-target --only --markdown Example:"),
        ("compare", "CONFIG --out --json --debug Example: examples/compare_own.py"),
        (
            "reproduce",
            "CONFIG --out --json --debug --resume --kills --every --seed --scale --jobs "
            "--tensorboard graph|pynative Example: msrun configs/ranks.yaml configs/resume.yaml "
            "configs/trajectories/",
        ),
    ],
)
def test_help_of_a_command_teaches(invoke, command, parts):
    text = " ".join(invoke(command, "--help").output.split())
    assert [part for part in [*parts.split(), "Exit status:"] if part not in text] == []


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
