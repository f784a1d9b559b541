"""`ms-adam reproduce` in a process of its own, as a user starts it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from lab.run.changed_configs import write

COMMAND = [sys.executable, "-c", "from ms_adam.lab.cli import main; main()", "reproduce"]


class Reproduced(NamedTuple):
    """The ended command, the folder that it wrote to, and the content of its results file."""

    ended: subprocess.CompletedProcess
    out: Path
    content: dict

    @property
    def entry(self):
        (entry,) = self.content["results"]
        return entry

    @property
    def statuses(self):
        return [verdict["status"] for verdict in self.entry["verdicts"]]


def reproduce(folder, content, *options):
    """Runs a config in a folder, with ``out`` for the results, until its verdicts are told."""
    arguments = [*COMMAND, write(folder, content).name, "--out", "out", *options]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    out = folder / "out"
    return Reproduced(done, out, json.loads((out / "results.json").read_text()))


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
