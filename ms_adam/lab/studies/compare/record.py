"""The record of a side on disk, step by step.

A record is a folder:

    record.json       names, shapes and dtypes of the parameters, steps, quantities, facts
    <quantity>.npy    (steps + 1, elements of all parameters): gradient, moment1, moment2, vhat,
                      master, parameter. float32 (which holds float16 and bfloat16 exactly) or
                      float64. Row 0 is the state before the first step.
    scalars.npz       see `SCALARS`

So a record takes (steps + 1) x elements x quantities x 4 bytes (8 where anything is float64), on
disk: the files are memory maps, and one step of them is in memory at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ms_adam.lab.errors import UserError

LOSS = "loss"
# In the order of one step, and in words. A master is updated in the place of a narrow parameter.
QUANTITIES = {
    "gradient": "gradient",
    "moment1": "first moment",
    "moment2": "second moment",
    "vhat": "largest second moment",
    "master": "master weight",
    "parameter": "parameter",
}

# name: (axes besides the steps, meaning)
SCALARS = {
    "loss": ((), "the loss before the update"),
    "learning_rate": (("parameter",), "of each parameter"),
    "weight_decay": (("parameter",), "lambda that acts on each parameter"),
    "loss_scale": ((), "the factor that gradients and loss carry"),
    "c1": ((), "1 - beta1^t as the optimizer has it; NaN where it is not known to have one"),
    "c2": ((), "sqrt(1 - beta2^t), likewise"),
    "gradient_norm": (("parameter",), "Euclidean, of each parameter's gradient"),
    "non_finite": (("quantity",), "how many elements are NaN or infinite"),
}


class Tables:
    """Numbers of each step and parameter, saved with the names.

    Attributes:
        names: The parameters' names.
        tables: {quantity: float64, shape (kinds of number, steps, parameters)}; the loss has one
            column.
    """

    kinds = 0  # how many kinds of number there are

    def __init__(self, names: Sequence[str], tables: dict[str, np.ndarray]):
        self.names, self.tables = list(names), tables

    @classmethod
    def empty(cls, names: Sequence[str], quantities: Sequence[str], steps: int):
        columns = {quantity: 1 if quantity == LOSS else len(names) for quantity in quantities}
        return cls(names, {q: np.zeros((cls.kinds, steps, n)) for q, n in columns.items()})

    def save(self, path: Path) -> None:
        np.savez(path, names=np.array(self.names), **self.tables)

    @classmethod
    def load(cls, path: Path):
        with np.load(path) as arrays:
            tables = {name: arrays[name] for name in arrays.files if name != "names"}
            return cls(arrays["names"].tolist(), tables)


class RecordWriter:
    """Writes a record.

    Args:
        folder: The folder to make.
        names: The parameters' names.
        dtypes: {quantity: a dtype's name for each parameter}; its keys are the recorded quantities.
        steps: Number of steps.
        initial: {quantity: an array for each parameter} before the first step; parameters at least.
        limit_mb: The largest size of the record.

    Raises:
        UserError: It would take more than `limit_mb`.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        dtypes: dict[str, list[str]],
        steps: int,
        initial: dict[str, Sequence[np.ndarray]],
        limit_mb: float,
    ):
        self.quantities = [quantity for quantity in QUANTITIES if quantity in dtypes]
        elements = sum(array.size for array in initial["parameter"])
        storage = {
            quantity: np.float64 if "float64" in dtypes[quantity] else np.float32
            for quantity in self.quantities
        }
        needed = (
            (steps + 1) * elements * sum(np.dtype(kind).itemsize for kind in storage.values()) / 1e6
        )
        if needed > limit_mb:
            fit = int((steps + 1) * limit_mb / needed) - 1
            raise UserError(
                f"{steps} steps of {elements:,} elements take {needed:,.0f} MB for each side, and "
                f"limit_mb leaves {limit_mb:,.0f} MB: raise limit_mb, or take fewer steps "
                + (f"({fit} fit)" if fit > 0 else "(not one fits)")
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._maps = {
            quantity: np.lib.format.open_memmap(
                folder / f"{quantity}.npy", mode="w+", dtype=kind, shape=(steps + 1, elements)
            )
            for quantity, kind in storage.items()
        }
        for quantity in self.quantities:
            if quantity in initial:
                self._maps[quantity][0] = _flat(initial[quantity], storage[quantity])
        sizes = {"parameter": len(names), "quantity": len(self.quantities)}
        self.scalars = {
            name: np.full((steps, *(sizes[axis] for axis in axes)), np.nan)
            for name, (axes, _) in SCALARS.items()
        }
        self.batches = np.zeros(steps, np.uint64)
        self._facts = {
            "names": list(names),
            "shapes": [list(array.shape) for array in initial["parameter"]],
            "dtypes": {quantity: dtypes[quantity] for quantity in self.quantities},
            "steps": steps,
        }

    def write(self, step: int, quantity: str, arrays: Sequence[np.ndarray]) -> None:
        """Writes one quantity of one step (counted from 0); an array for each parameter."""
        target = self._maps[quantity]
        target[step + 1] = _flat(arrays, target.dtype)
        count = sum(array.size - int(np.count_nonzero(np.isfinite(array))) for array in arrays)
        self.scalars["non_finite"][step, self.quantities.index(quantity)] = count
        if quantity == "gradient":
            norms = [np.linalg.norm(np.asarray(array, np.float64)) for array in arrays]
            self.scalars["gradient_norm"][step] = norms

    def close(self, **facts) -> None:
        for target in self._maps.values():
            target.flush()
        np.savez(self._folder / "scalars.npz", batches=self.batches, **self.scalars)
        text = json.dumps({**self._facts, "facts": facts}, indent=2)
        (self._folder / "record.json").write_text(text, encoding="utf-8")


class Record:
    """Reads a record.

    Attributes:
        names: The parameters' names.
        shapes: Their shapes.
        dtypes: {quantity: a dtype's name for each parameter}.
        quantities: The recorded ones, in the order of one step.
        steps: Number of steps.
        facts: Of the side: backend, device_target, optimizer; recipe and rounds, see `recipe`;
            updates, the number of those before the first step; ranks, their number; apart, the
            first place where these differ, or None.
        scalars: The arrays of `SCALARS`, float64, steps first.
        batches: A digest of each step's batch, uint64; 0 where it is not known.
    """

    def __init__(self, folder: Path):
        content = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        self.names: list[str] = content["names"]
        self.shapes = [tuple(shape) for shape in content["shapes"]]
        self.dtypes: dict[str, list[str]] = content["dtypes"]
        self.quantities = list(self.dtypes)
        self.steps: int = content["steps"]
        self.facts: dict = content["facts"]
        with np.load(folder / "scalars.npz") as arrays:
            self.batches = arrays["batches"]
            self.scalars = {name: arrays[name] for name in SCALARS}
        self._ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        self._maps = {
            quantity: np.load(folder / f"{quantity}.npy", mmap_mode="r")
            for quantity in self.quantities
        }

    @property
    def has_losses(self) -> bool:
        """Whether losses are recorded; a dump has none, and knows no batches."""
        return bool(self.batches.any())

    def read(self, step: int, quantity: str = "parameter") -> list[np.ndarray]:
        """One quantity of one step (counted from 0); an array for each parameter."""
        return self._split(self._maps[quantity][step + 1])

    def before(self, step: int, quantity: str = "parameter") -> list[np.ndarray]:
        """A quantity before a step (counted from 0)."""
        return self.read(step - 1, quantity)

    def _split(self, flat: np.ndarray) -> list[np.ndarray]:
        return [part.reshape(shape) for part, shape in zip(np.split(flat, self._ends), self.shapes)]


def _flat(arrays: Sequence[np.ndarray], dtype) -> np.ndarray:
    return np.concatenate([np.asarray(array, dtype).ravel() for array in arrays])
