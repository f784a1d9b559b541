"""`ms-adam reproduce` in a process of its own, as a user starts it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from lab.run.changed_configs import write

# SIGINT may be ignored in the process that started the tests, such as a shell's background job.
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from ms_adam.lab.cli import main; main()"
)
COMMAND = [sys.executable, "-c", MAIN, "reproduce"]


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


def interrupt(folder, *arguments, ready):
    """Presses Ctrl-C once `ready` says so of what is told until then; returns all that is told."""
    told = folder / "told.txt"
    with open(told, "w") as file:
        process = subprocess.Popen([*COMMAND, *map(str, arguments)], cwd=folder, stderr=file)
    while process.poll() is None and not ready(told.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130, told.read_text()
    assert "Traceback" not in told.read_text()
    return told.read_text()
