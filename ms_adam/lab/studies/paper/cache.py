"""Runs that are done, a file each. What was stopped goes on from there.

A file is written under another name and renamed when it is whole, so that a file with a run's name
is a whole run, whenever the process was ended.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import numpy as np

from ms_adam.lab.studies.paper.sweep import Outcome

_PACKAGE = Path(__file__).parents[3]
# What decides the numbers of a run. What only reads them may change without making runs stale.
_CODE = (
    "*.py",
    "backends/**/*",
    "lab/studies/paper/networks.py",
    "lab/studies/paper/optimizers.py",
    "lab/studies/paper/training.py",
    "lab/studies/paper/data.py",
)


class Cache:
    """A folder of runs.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, digest: str) -> Optional[Outcome]:
        """A run that is done, or None."""
        path = self.folder / f"{digest}.npz"
        if not path.exists():
            return None
        with np.load(path) as arrays:
            return Outcome(arrays["costs"], int(arrays["steps"]), float(arrays["seconds"]))

    def store(self, digest: str, outcome: Outcome) -> None:
        unfinished = self.folder / f"{digest}.{os.getpid()}.unfinished"
        with open(unfinished, "wb") as stream:
            np.savez(stream, costs=outcome.costs, steps=outcome.steps, seconds=outcome.seconds)
        unfinished.replace(self.folder / f"{digest}.npz")

    @contextlib.contextmanager
    def taken(self, digest: str) -> Iterator[bool]:
        """Takes some of the runs for this process, so that no other makes them too.

        The kernel gives back what a process that died had taken.

        Args:
            digest: Names them.

        Yields:
            Whether they are taken now: False where another process has them.
        """
        with open(self.folder / f"{digest}.taken", "wb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def tidy(self) -> None:
        """Removes what was being written when an earlier process was ended."""
        for path in self.folder.glob("*.unfinished"):
            path.unlink()


@functools.cache
def code_digest() -> str:
    """SHA-256 of the code that a run's numbers come from; comments and layout do not count."""
    digest = hashlib.sha256()
    for pattern in _CODE:
        for path in sorted(_PACKAGE.glob(pattern)):
            if path.suffix == ".py":
                digest.update(ast.dump(ast.parse(path.read_bytes())).encode("utf-8"))
            elif path.is_file() and path.suffix in (".cc", ".h"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


# Runs of many days and machines share a cache: all curves of a figure come from one kind of device.
DEVICE_TARGET = "CPU"


def surroundings(fingerprint: str) -> dict[str, str]:
    """What a run depends on besides its config.

    Args:
        fingerprint: That of the examples.
    """
    return {
        "examples": fingerprint,
        "code": code_digest(),
        "mindspore": importlib.metadata.version("mindspore"),
    }
