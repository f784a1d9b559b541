"""Finished runs, one file each. After a stop, a sweep goes on from them."""

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

from ms_adam.lab.studies.paper.config import Contender, PaperFigure, Variant, scale_of
from ms_adam.lab.studies.paper.data import load_examples
from ms_adam.lab.studies.paper.sweep import Get, Line, Outcome, Spec, sweep

_PACKAGE = Path(__file__).parents[3]
# The code that decides a run's numbers. Code that only reads them does not make runs stale.
CODE = (
    "*.py",
    "backends/**/*.py",
    "backends/**/*.h",
    "backends/**/*.cc",
    "lab/targets.py",
    "lab/train.py",
    "lab/problems/batches.py",
    "lab/problems/networks.py",
    "lab/studies/paper/optimizers.py",
    "lab/studies/paper/training.py",
)
# Runs of many days and machines share a cache: all curves of a figure come from one kind of device.
DEVICE_TARGET = "CPU"


class Cache:
    """A folder of runs, which is created if it is missing.

    A file is written under another name and renamed when it is complete. So a file with a run's
    name is a complete run, whenever the process was ended.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, digest: str) -> Optional[Outcome]:
        """Returns a finished run, or None."""
        path = self.folder / f"{digest}.npz"
        if not path.exists():
            return None
        with np.load(path) as arrays:
            return Outcome(arrays["costs"], int(arrays["steps"]), float(arrays["seconds"]))

    def store(self, digest: str, outcome: Outcome) -> None:
        unfinished = self.folder / f"{digest}.{os.getpid()}.unfinished"
        with open(unfinished, "wb") as stream:
            np.savez(stream, **outcome._asdict())
        unfinished.replace(self.folder / f"{digest}.npz")

    @contextlib.contextmanager
    def taken(self, digest: str) -> Iterator[bool]:
        """Locks runs for this process, so that no other makes them too.

        The kernel releases the locks of a process that died.

        Yields:
            Whether this process has the lock; False if another process has it.
        """
        with open(self.folder / f"{digest}.taken", "wb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def tidy(self) -> None:
        """Removes files that were being written when an earlier process was ended."""
        for path in self.folder.glob("*.unfinished"):
            path.unlink()


class CachedFigure:
    """A figure at a scale, its examples, the steps of each run, and its finished runs.

    Raises:
        ConfigError: There is no such scale, or the data have less examples than a batch needs.
        DataError: The data are missing or damaged.
    """

    def __init__(self, figure: PaperFigure, scale_name: str, cache: Cache):
        self.figure, self.scale, self._cache = figure, scale_of(figure, scale_name), cache
        self.examples = load_examples(figure, self.scale.examples)
        self.steps = len(self.examples) // figure.batch_size * self.scale.epochs
        self._surroundings = {
            "examples": self.examples.fingerprint,
            "code": code_digest(),
            "mindspore": importlib.metadata.version("mindspore"),
        }

    def digest(self, spec: Spec) -> str:
        return spec.digest(self.figure, self.scale, self._surroundings)

    def finished(self, make: Get) -> Get:
        """Returns a function that gets a run from the cache, or by `make` if it is missing."""
        return lambda spec: self._cache.load(self.digest(spec)) or make(spec)

    def lines(self, make: Get) -> list[Line]:
        """Gets all lines of the figure, in their order: finished runs, the others by `make`."""
        return sweep(self.figure, self.scale, self.finished(make))

    def store(self, spec: Spec, outcome: Outcome) -> None:
        self._cache.store(self.digest(spec), outcome)

    def taken(self, variant: Variant, contender: Contender) -> contextlib.AbstractContextManager:
        """Locks a line for this process, as `Cache.taken` does."""
        rate = contender.trials(self.scale.trials)[0]
        return self._cache.taken(self.digest(Spec(variant, contender, rate, self.figure.seeds[0])))


@functools.cache
def code_digest() -> str:
    """Returns a SHA-256 of the code that decides a run's numbers.

    Comments and layout of Python files do not count.
    """
    digest = hashlib.sha256()
    for pattern in CODE:
        for path in sorted(_PACKAGE.glob(pattern)):
            content = path.read_bytes()
            is_python = path.suffix == ".py"
            digest.update(ast.dump(ast.parse(content)).encode() if is_python else content)
    return digest.hexdigest()
