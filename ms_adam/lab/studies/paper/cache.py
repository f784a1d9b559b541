"""Finished runs, one file each. After a stop, a sweep goes on from them."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ms_adam.atomic_write import atomic_write
from ms_adam.lab.problems.images import DataError
from ms_adam.lab.run.processes import locked
from ms_adam.lab.studies.paper.config import Contender, PaperFigure, Variant, scale_of
from ms_adam.lab.studies.paper.data import load_examples
from ms_adam.lab.studies.paper.sweep import Get, Key, Line, Outcome, Spec, sweep

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


class CachedFigure:
    """A figure at a scale, its examples, the steps of each run, and a folder of finished runs.

    A file with a run's name is a complete run, whenever the process was ended.

    Raises:
        ConfigError: There is no such scale.
        DataError: The data are missing or damaged, or have fewer examples than a batch needs.
    """

    def __init__(self, figure: PaperFigure, scale_name: str, folder: Path):
        self.figure, self.scale, self._folder = figure, scale_of(figure, scale_name), folder
        self.examples = load_examples(figure, self.scale.examples)
        if self.examples.trained < figure.batch_size:
            raise DataError(
                f"{figure.name}: batch_size = {figure.batch_size}, but there are only "
                f"{self.examples.trained} examples to train on: {self.examples.source}"
            )
        self.steps = self.examples.trained // figure.batch_size * self.scale.epochs
        self._surroundings = {
            "examples": self.examples.fingerprint,
            "held_out": self.examples.held_out,
            "code": code_digest(),
            "mindspore": importlib.metadata.version("mindspore"),
        }
        folder.mkdir(parents=True, exist_ok=True)

    def digest(self, spec: Spec) -> str:
        """Names a run by all that its outcome depends on."""
        return spec.digest(self.figure, self.scale, self._surroundings)

    def finished(self, make: Get) -> Get:
        """Returns a function that gets a run from the folder, or by `make` if it is missing."""

        def get(spec: Spec) -> Outcome:
            path = self._folder / f"{self.digest(spec)}.npz"
            if not path.exists():
                return make(spec)
            with np.load(path) as arrays:
                return Outcome(arrays["costs"], int(arrays["steps"]), float(arrays["seconds"]))

        return get

    def lines(self, make: Get, seeds: Mapping[Key, int] = {}) -> list[Line]:
        """Gets all lines of the figure as `sweep` does: finished runs, the others by `make`."""
        return sweep(self.figure, self.scale, self.finished(make), seeds)

    def store(self, spec: Spec, outcome: Outcome) -> None:
        with atomic_write(self._folder) as writing:
            np.savez(writing / f"{self.digest(spec)}.npz", **outcome._asdict())

    def taken(self, variant: Variant, contender: Contender) -> contextlib.AbstractContextManager:
        """Locks a line, as `locked` does, so that no other process makes its runs too."""
        rate = contender.trials(self.scale.trials)[0]
        first = self.digest(Spec(variant, contender, rate, self.figure.seeds[0]))
        return locked(self._folder / f"{first}.taken")


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
