"""The description of a comparison of optimizers: a YAML file, checked before anything runs.

There are two kinds: with ``functions``, paths over functions of the plane (`Trajectories`); with
``linear_fit``, a linear model of two weights on mini-batches (`LinearComparison`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
import yaml
from pydantic import Field

from ms_adam.lab.run.config import Count, Name, Number, Section, Seed, load

# yaml gives lists; a pair of numbers is what is meant
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
Text = Annotated[str, Field(min_length=1)]


def _rising(pair: list[float]) -> list[float]:
    if not pair[0] < pair[1]:
        raise ValueError("the first number must be less than the second")
    return pair


Range = Annotated[Pair, pydantic.AfterValidator(_rising)]


class Place(Section):
    """A function, where the paths start on it, and what part of the plane is shown.

    Attributes:
        function: A name of `functions.FUNCTIONS`, or ``module:callable``, which is given x and y,
            arrays of one shape, and returns f(x, y) of that shape.
        gradient: ``module:callable``, which returns (df/dx, df/dy). Without it, a callable's
            gradient is taken by central differences.
        name: What it is called in files and pictures; `function` if it is not given.
        scale: How heights are coloured and drawn: f, or the logarithm of f less its least value.
        learning_rates: By the optimizer's name: in place of its own on this function.
        seen_from: In 3-D: degrees above the plane, and around the z axis from x.
    """

    function: Text
    gradient: Optional[Text] = None
    name: Optional[Name] = None
    start: Pair
    x: Range
    y: Range
    scale: Literal["linear", "log"] = "linear"
    learning_rates: dict[str, Annotated[Number, Field(ge=0)]] = {}
    seen_from: Pair = [48.0, -60.0]

    @pydantic.model_validator(mode="after")
    def _gradient_fits(self) -> Place:
        if self.gradient is not None and ":" not in self.function:
            raise ValueError(
                f"gradient = {self.gradient!r} is for a function of your own (module:callable); "
                f"that of {self.function!r} is known"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _start_is_seen(self) -> Place:
        for axis, value, (low, high) in zip("xy", self.start, (self.x, self.y)):
            if not low <= value <= high:
                raise ValueError(
                    f"start = {self.start} is not in the picture: {axis} goes from {low} to {high}"
                )
        return self

    @property
    def label(self) -> str:
        return self.name or self.function.replace(":", ".")


class Optimizer(Section):
    """An optimizer.

    Attributes:
        name: What it is called.
        method: A name of `ms_adam.reference`, or ``module:callable``, which is called with
            `options` and returns an object with `init` and `step` as those have; or a class of
            ``mindspore.nn.Optimizer``, called with parameters and `options`.
        options: Its keyword arguments.
    """

    name: Text
    method: Text
    options: dict[str, Any] = {}


class Walker(Optimizer):
    """An optimizer, and how many steps it makes."""

    steps: Count


class Animation(Section):
    """A 3-D picture (PNG) and an animated one (GIF) for each function."""

    frames: Annotated[Count, Field(ge=2, le=400)]
    seconds: Annotated[Number, Field(gt=0)]


class Figure(Section):
    """The layout.

    Attributes:
        panels: Whether each optimizer or each function has a panel of its own over contours.
        columns: How many panels stand side by side.
        animation: None for no 3-D pictures.
    """

    panels: Literal["optimizers", "functions"]
    columns: Annotated[Count, Field(le=8)]
    animation: Optional[Animation] = None


class LinearFit(Section):
    """Points x from a normal distribution in the plane, y = weights . x + noise.

    Attributes:
        noise: The noise is uniform from -noise to noise.
        batch_size: The last batch of an epoch is smaller when it does not come out even.
        start: The weights before the first step.
    """

    points: Count
    weights: Pair
    noise: Annotated[Number, Field(ge=0)]
    batch_size: Count
    epochs: Count
    seed: Seed
    start: Pair

    @property
    def steps(self) -> int:
        return self.epochs * -(-self.points // self.batch_size)

    @pydantic.model_validator(mode="after")
    def _batch_fits(self) -> LinearFit:
        if self.batch_size > self.points:
            raise ValueError(f"batch_size = {self.batch_size} is more than points = {self.points}")
        return self


class _Comparison(Section):
    name: Name
    title: Text
    # Whether what MindSpore has for each method of ms_adam.reference runs beside it.
    mindspore: bool


class LinearComparison(_Comparison):
    """See ``configs/comparison/linear.yaml``."""

    linear_fit: LinearFit
    optimizers: Annotated[list[Optimizer], Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> LinearComparison:
        _different("optimizers", [entry.name for entry in self.optimizers])
        return self


class Trajectories(_Comparison):
    """See ``configs/comparison/sphere.yaml``."""

    functions: Annotated[list[Place], Field(min_length=1)]
    optimizers: Annotated[list[Walker], Field(min_length=1)]
    figure: Figure

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Trajectories:
        names = [entry.name for entry in self.optimizers]
        _different("optimizers", names)
        _different("functions", [place.label for place in self.functions])
        for place in self.functions:
            unknown = ", ".join(sorted(set(place.learning_rates) - set(names)))
            if unknown:
                raise ValueError(
                    f"functions, {place.label}: learning_rates names {unknown}; "
                    f"the optimizers are {', '.join(names)}"
                )
        if self.figure.panels == "optimizers" and len(self.functions) > 1:
            raise ValueError(
                "figure.panels = 'optimizers': a panel for each optimizer is for one "
                f"function, but there are {len(self.functions)}; 'functions'"
            )
        return self


Comparison = Union[Trajectories, LinearComparison]


def load_comparison(path: Path) -> Comparison:
    """Reads and checks one config.

    Raises:
        ConfigError: The file is not there, is not YAML, or a key is unknown, missing or has a
            value that is not allowed. The message names the file, the key and the value.
    """
    return load(path, LinearComparison if _has_key(path, "linear_fit") else Trajectories)


def _has_key(path: Path, key: str) -> bool:
    try:
        return key in yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError):
        return False  # `load` says what is wrong with the file


def _different(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: each needs a name of its own; twice there: {', '.join(twice)}")
