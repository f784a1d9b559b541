"""The description of a comparison: a YAML file, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

from ms_adam.lab.run.config import (
    Backend,
    Count,
    Folder,
    Mode,
    NotNegative,
    Positive,
    Section,
    Seed,
    Text,
)

MOMENTS = ("moment1", "moment2", "vhat")
REFERENCE = "reference"  # short for ms_adam.reference.Adam: NumPy in float64

_NUMBER_WITHOUT_POINT = re.compile(r"[+-]?\d+[eE][+-]?\d+")


def _no_text_for_number(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER_WITHOUT_POINT.fullmatch(value):
        mantissa, exponent = re.split("[eE]", value)
        raise ValueError(f"YAML reads this as text; write {mantissa}.0e{exponent}")
    return value


def _for_all_quantities(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return dict.fromkeys(Tolerance.model_fields, value)
    return value


def _from_config(name: str, info: pydantic.ValidationInfo) -> str:
    file, _, attribute = name.rpartition(":")
    folder = (info.context or {}).get("folder")
    if folder is None or not file.endswith(".py"):
        return name
    return f"{(folder / Path(file).expanduser()).resolve()}:{attribute}"


_Options = dict[str, Annotated[Any, BeforeValidator(_no_text_for_number)]]
_FromConfig = AfterValidator(_from_config)  # "file.py:name" is taken from the config's folder


class Tolerance(Section):
    """Relative differences that are allowed although roundings do not explain them.

    None allows none; 0 asks for equal values, and so not even for roundings. Relative to the
    largest element of the tensor, of weights to their largest change in the step.
    """

    loss: Optional[NotNegative] = None
    gradient: Optional[NotNegative] = None
    moment: Optional[NotNegative] = None
    parameter: Optional[NotNegative] = None

    def of(self, quantity: str) -> float:
        """The tolerance of a quantity of a record."""
        return self._given(quantity) or 0.0

    def asks_equal(self, quantity: str) -> bool:
        return self._given(quantity) == 0

    def _given(self, quantity: str) -> Optional[float]:
        name = {**dict.fromkeys(MOMENTS, "moment"), "master": "parameter"}.get(quantity, quantity)
        return getattr(self, name)


_AnyTolerance = Annotated[Tolerance, BeforeValidator(_for_all_quantities)]


class Problem(Section):
    """The built-in problem: a multi-layer perceptron on MNIST images."""

    hidden: list[Count]
    train: Count
    split_seed: Seed = 0
    idx_directory: Optional[Folder] = None
    loss: Literal["fused", "cross_entropy"] = "fused"


class Training(Section):
    """Number of steps and examples in a batch; the seed decides weights and order."""

    steps: Count
    batch_size: Count
    seed: Seed


class Side(Section):
    """One way to do the training, or a dump of msProbe of it."""

    mode: Optional[Mode] = None
    optimizer: Optional[
        Annotated[str, Field(pattern=r"^[^:]+(:[A-Za-z_][\w.]*)?$"), _FromConfig]
    ] = None
    options: _Options = {}
    backend: Optional[Backend] = None
    dtype: Optional[Literal["float16", "bfloat16", "float32", "float64"]] = None
    context: _Options = {}
    changes: _Options = {}
    ranks: Count = 1
    dump: Optional[Folder] = None
    loss_scale: Optional[Positive] = None

    def faults(self) -> Iterator[str]:
        given = {key for key, value in self if value != type(self).model_fields[key].default}
        if self.dump is not None and given - {"dump", "loss_scale"}:
            yield "a side with a 'dump' has no other key but 'loss_scale'"
        if self.dump is None:
            missing = (key for key in ("mode", "optimizer") if getattr(self, key) is None)
            yield from (f"'{key}' is missing" for key in missing)
            if "loss_scale" in given:
                yield "'loss_scale' is of a 'dump'; of an optimizer it is an option"


class Pair(Section):
    """Two sides to compare; the first one's network and formula are the standard."""

    sides: Annotated[list[str], Field(min_length=2, max_length=2)]
    tolerance: Optional[_AnyTolerance] = None
    must_hold: bool = True


class Comparison(Section):
    """One comparison. See ``configs/compare.yaml`` for the meaning of each key."""

    title: Text
    problem: Optional[Problem] = None
    factory: Optional[Annotated[str, Field(pattern=r"^[^:]+:[A-Za-z_][\w.]*$"), _FromConfig]] = None
    factory_options: _Options = {}
    training: Training
    sides: Annotated[dict[str, Side], Field(min_length=2)]
    pairs: Annotated[Optional[list[Pair]], Field(min_length=1)] = None
    tolerance: Optional[_AnyTolerance] = None
    limit_mb: Count = 2000
    keep_records: bool = False

    def faults(self) -> Iterator[str]:
        if (self.problem is None) == (self.factory is None):
            yield (
                "a comparison has either 'problem' (the built-in one) or 'factory' (yours), "
                f"but here {'both are' if self.problem else 'neither is'} given"
            )
        if self.problem and self.factory_options:
            yield "factory_options are for a 'factory'; this config has a 'problem'"
        if self.problem and self.training.batch_size > self.problem.train:
            yield (
                f"training.batch_size = {self.training.batch_size} is more than problem.train = "
                f"{self.problem.train}: there would be no batch"
            )
        batch_size = self.training.batch_size
        for name, side in self.sides.items():
            yield from self._faults_of_changes(name, side)
            if batch_size % side.ranks:
                divisors = (str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
                yield (
                    f"sides.{name}.ranks = {side.ranks}: ranks take equal shares of a batch, so "
                    f"with training.batch_size = {batch_size} it must be one of "
                    f"{', '.join(divisors)}"
                )
        for pair in self.all_pairs:
            for name in pair.sides:
                if name not in self.sides:
                    yield f"pairs: there is no side '{name}'; there are {', '.join(self.sides)}"
            if self.sides[pair.sides[0]].dump is not None:
                yield (
                    f"pairs: '{pair.sides[0]}' is a dump, which has no network to judge by; it can "
                    "only be the second side"
                )
            if pair.sides[0] == pair.sides[1]:
                yield f"pairs: '{pair.sides[0]}' is compared with itself; a pair needs two sides"

    def _faults_of_changes(self, name: str, side: Side) -> Iterator[str]:
        """All sides train one network on the same batches: only the loss is left to change."""
        unknown = sorted(set(side.changes) - {"loss"})
        if self.problem and unknown:
            yield f"sides.{name}.changes: unknown key '{unknown[0]}'; allowed here: loss"
        try:
            self.problem_of(side)
        except pydantic.ValidationError as error:
            wrong = error.errors()[0]
            key = ".".join(map(str, wrong["loc"]))
            yield f"sides.{name}.changes.{key} = {wrong['input']!r}: {wrong['msg']}"

    @property
    def all_pairs(self) -> list[Pair]:
        """The pairs of the config; without any, the first side with each other one."""
        if self.pairs is not None:
            return self.pairs
        first, *others = self.sides
        return [Pair(sides=[first, other]) for other in others]

    def tolerance_of(self, pair: Pair) -> Tolerance:
        return pair.tolerance or self.tolerance or Tolerance()

    def problem_of(self, side: Side) -> dict[str, Any]:
        """The arguments of the factory for a side: the shared options and its changes."""
        if self.problem is None:
            return {**self.factory_options, **side.changes}
        return Problem.model_validate({**self.problem.model_dump(), **side.changes}).model_dump()
