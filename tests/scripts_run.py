"""Runs a script as a user would: in a process of its own, or on two ranks under msrun."""

import os
import subprocess
import sys
from pathlib import Path

from ms_adam.lab.run.launch import free_port


def run_script(path, folder):
    """Runs a script in a folder; returns its standard output."""
    return _run([path], folder)


def run_on_two_ranks(path, folder):
    """Runs a script under msrun in a folder; returns the output of each rank."""
    options = ["--worker_num=2", "--local_worker_num=2", "--join=True", "--log_dir=logs"]
    module = ["-m", "mindspore.parallel.cluster.run", f"--master_port={free_port()}"]
    _run([*module, *options, path], folder)
    return [(folder / "logs" / f"worker_{rank}.log").read_text() for rank in (0, 1)]


def _run(arguments, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # msrun calls python
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PATH": path},
        timeout=300,
    )
    logs = [log.read_text() for log in folder.glob("logs/worker_*.log")]
    assert done.returncode == 0, "\n".join(text[-2000:] for text in [done.stderr, *logs])
    return done.stdout
