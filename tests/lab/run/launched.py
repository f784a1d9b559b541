"""The processes of a launch, for tests."""

import os
from pathlib import Path

import psutil

import ms_adam


def paths_of_tests():
    """Variables with which ranks find the modules of tests, and this ms_adam."""
    paths = [
        str(Path(__file__).parents[2]),
        str(Path(ms_adam.__file__).parents[1]),
        os.environ.get("PYTHONPATH", ""),
    ]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "GLOG_v": "3"}


def left_of(folder):
    """The commands that have a folder among their arguments."""
    commands = (one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"]))
    return [command for command in commands if any(str(folder) in part for part in command)]
