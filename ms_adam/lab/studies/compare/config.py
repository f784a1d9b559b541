"""The description of a comparison: a YAML file, checked before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pydantic
from pydantic import BeforeValidator, Field

from ms_adam.lab.run.config import ConfigError, Count, Mode, Number, Section, Seed, load

MOMENTS = ("moment1", "moment2", "vhat")
REFERENCE = "reference"  # short for ms_adam.reference.Adam: NumPy in float64

_NUMBER_WITHOUT_POINT = re.compile(r"[+-]?\d+[eE][+-]?\d+")
_NotNegative = Annotated[Number, Field(ge=0)]


def _no_text_for_number(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER_WITHOUT_POINT.fullmatch(value):
        mantissa, exponent = re.split("[eE]", value)
        raise ValueError(f"YAML reads this as text; write {mantissa}.0e{exponent}")
    return value


def _for_all_quantities(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return dict.fromkeys(Tolerance.model_fields, value)
    return value


_Options = dict[str, Annotated[Any, BeforeValidator(_no_text_for_number)]]


class Tolerance(Section):
    """Relative distances beyond which two sides part; 0 asks for equal values.

    The measure of each is that of `distances.distance`: the largest difference in a tensor, for
    parameters over the way that the tensor has come, else over its largest element. 0.001 is the
    0.1% whose share of elements this field reports.
    """

    loss: _NotNegative = 1e-3
    gradient: _NotNegative = 1e-3
    moment: _NotNegative = 1e-3
    parameter: _NotNegative = 1e-3

    def of(self, quantity: str) -> float:
        """The tolerance of a quantity of a record."""
        return getattr(self, "moment" if quantity in MOMENTS else quantity)


_AnyTolerance = Annotated[Tolerance, BeforeValidator(_for_all_quantities)]


class Problem(Section):
    """The built-in problem: a multi-layer perceptron on MNIST images."""

    hidden: list[Count]
    train: Count
    split_seed: Seed = 0
    idx_directory: Optional[Path] = None
    loss: Literal["fused", "cross_entropy"] = "fused"


class Training(Section):
    """How many steps, in batches of how many examples; the seed decides weights and order."""

    steps: Count
    batch_size: Count
    seed: Seed


class Side(Section):
    """One way to do the training."""

    mode: Mode
    optimizer: Annotated[str, Field(pattern=r"^[^:]+(:[A-Za-z_][\w.]*)?$")]
    options: _Options = {}
    backend: Optional[Literal["auto", "fused", "primitive", "composite"]] = None
    dtype: Optional[Literal["float16", "bfloat16", "float32", "float64"]] = None
    context: _Options = {}
    changes: _Options = {}


class Pair(Section):
    """Two sides to compare; the second is fed the first one's gradients."""

    sides: Annotated[list[str], Field(min_length=2, max_length=2)]
    tolerance: Optional[_AnyTolerance] = None
    must_hold: bool = True


class Comparison(Section):
    """One comparison. See ``configs/compare.yaml`` for what each key means."""

    title: Annotated[str, Field(min_length=1)]
    problem: Optional[Problem] = None
    factory: Optional[Annotated[str, Field(pattern=r"^[^:]+:[A-Za-z_][\w.]*$")]] = None
    factory_options: _Options = {}
    training: Training
    sides: Annotated[dict[str, Side], Field(min_length=2)]
    pairs: Annotated[Optional[list[Pair]], Field(min_length=1)] = None
    tolerance: _AnyTolerance = Tolerance()
    limit_mb: Count = 2000
    keep_records: bool = False

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Comparison:
        if (self.problem is None) == (self.factory is None):
            raise ValueError(
                "a comparison has either 'problem' (the built-in one) or 'factory' (yours), "
                f"but here {'both are' if self.problem else 'neither is'} given"
            )
        if self.problem and self.factory_options:
            raise ValueError("factory_options are for a 'factory'; this config has a 'problem'")
        if self.problem and self.training.batch_size > self.problem.train:
            raise ValueError(
                f"training.batch_size = {self.training.batch_size} is more than problem.train = "
                f"{self.problem.train}: there would be no batch"
            )
        for name, side in self.sides.items():
            # All sides train one network on the same batches: only the loss is left to change.
            unknown = sorted(set(side.changes) - {"loss"})
            if self.problem and unknown:
                raise ValueError(
                    f"sides.{name}.changes: unknown key '{unknown[0]}'; allowed here: loss"
                )
        for pair in self.all_pairs:
            for name in pair.sides:
                if name not in self.sides:
                    raise ValueError(
                        f"pairs: there is no side '{name}'; there are {', '.join(self.sides)}"
                    )
            if pair.sides[0] == pair.sides[1]:
                raise ValueError(
                    f"pairs: '{pair.sides[0]}' is compared with itself in any case (the noise "
                    "floor); a pair needs two sides"
                )
        return self

    @property
    def all_pairs(self) -> list[Pair]:
        """The pairs that are asked for; if none are, the first side with each other one."""
        if self.pairs is not None:
            return self.pairs
        first, *others = self.sides
        return [Pair(sides=[first, other]) for other in others]

    def tolerance_of(self, pair: Pair) -> Tolerance:
        return pair.tolerance or self.tolerance

    def problem_of(self, side: Side) -> dict[str, Any]:
        """What the factory is given for a side: the options that all share, and its changes."""
        if self.problem is None:
            return {**self.factory_options, **side.changes}
        return Problem.model_validate({**self.problem.model_dump(), **side.changes}).model_dump()


def load_comparison(path: Path) -> Comparison:
    """Reads and checks the config of a comparison.

    Returns:
        The comparison. A relative ``problem.idx_directory`` is taken from the config's folder, and
        so are a ``factory`` and a side's ``optimizer`` in a file.

    Raises:
        ConfigError: As `ms_adam.lab.run.config.load`.
    """
    comparison = load(path, Comparison)
    folder = path.parent.resolve()
    if comparison.problem is not None:
        # A change of a side is checked here, and not first in a process of its own.
        for name, side in comparison.sides.items():
            _check_changes(path, comparison, name, side)
        directory = comparison.problem.idx_directory
        if directory is not None:
            directory = (folder / directory.expanduser()).resolve()
            problem = comparison.problem.model_copy(update={"idx_directory": directory})
            comparison = comparison.model_copy(update={"problem": problem})
    else:
        factory = _from(folder, comparison.factory)
        comparison = comparison.model_copy(update={"factory": factory})
    sides = {
        name: side.model_copy(update={"optimizer": _from(folder, side.optimizer)})
        for name, side in comparison.sides.items()
    }
    return comparison.model_copy(update={"sides": sides})


def _from(folder: Path, name: str) -> str:
    """The name of a callable; where that is ``file.py:name``, the file is taken from a folder."""
    file, _, attribute = name.rpartition(":")
    if not file.endswith(".py"):
        return name
    return f"{(folder / Path(file).expanduser()).resolve()}:{attribute}"


def _check_changes(path: Path, comparison: Comparison, name: str, side: Side) -> None:
    try:
        comparison.problem_of(side)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(
            f"{path}: this config can not be used:\n"
            f"  sides.{name}.changes.{key} = {problem['input']!r}: {problem['msg']}"
        ) from None
