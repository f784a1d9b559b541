"""The processes of a launch, for tests."""

import os
from pathlib import Path

import ms_adam


def paths_of_tests():
    """Variables with which ranks find the modules of tests, and this ms_adam."""
    paths = [
        str(Path(__file__).parents[3]),
        str(Path(ms_adam.__file__).parents[1]),
        os.environ.get("PYTHONPATH", ""),
    ]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "GLOG_v": "3"}


def left_of(folder):
    """The commands that have a folder among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        if any(str(folder) in argument for argument in command):
            found.append(command)
    return found
