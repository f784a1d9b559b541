"""`ms-adam reproduce` in a process of its own, as a user starts it."""

import signal
import subprocess
import sys

import yaml

COMMAND = [sys.executable, "-c", "from ms_adam.lab.cli import main; main()", "reproduce"]


def write(folder, content):
    """Writes a config under its own name."""
    path = folder / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def reproduce(folder, content, *options):
    """Runs a config in a folder, with ``out`` for the results, until its verdicts are told."""
    arguments = [*COMMAND, write(folder, content).name, "--out", "out", *options]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    return done


def interrupt(arguments, ready):
    """Presses Ctrl-C when `ready` says so of a line of the progress; returns what is then told."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    next(line for line in process.stderr if ready(line))
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in words
    return words
