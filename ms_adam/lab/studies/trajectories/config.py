"""The config of a comparison of optimizers, checked before anything runs.

With ``functions`` it describes paths over functions of the plane; with ``linear_fit``, a linear
model of two weights on mini-batches.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

import pydantic
from pydantic import Field

from ms_adam.lab.run.config import Count, Name, Number, Section, Seed, StudyConfig, Text

# YAML gives lists; a pair of numbers is meant
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]


def _rising(pair: list[float]) -> list[float]:
    if not pair[0] < pair[1]:
        raise ValueError("the first number must be less than the second")
    return pair


Range = Annotated[Pair, pydantic.AfterValidator(_rising)]


class Place(Section):
    """A function, where the paths start on it, and what part of the plane is shown.

    Attributes:
        function: A name of `functions.FUNCTIONS`, or ``module:callable``, which is called with x
            and y, arrays of one shape, and returns f(x, y) of that shape.
        gradient: ``module:callable``, which returns (df/dx, df/dy). Without it, a callable's
            gradient is taken by central differences.
        name: Its name in files and pictures; `function` if not given.
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
    def _fits(self) -> Place:
        if self.gradient is not None and ":" not in self.function:
            raise ValueError(
                f"gradient = {self.gradient!r} is for a function of your own (module:callable); "
                f"that of {self.function!r} is known"
            )
        for axis, value, (low, high) in zip("xy", self.start, (self.x, self.y)):
            if not low <= value <= high:
                raise ValueError(
                    f"start = {self.start} is not in the picture: {axis} goes from {low} to {high}"
                )
        return self

    @property
    def label(self) -> str:
        """The function's name in files and rows."""
        return self.name or self.function.replace(":", ".")


class Optimizer(Section):
    """An optimizer.

    Attributes:
        name: Its name in files and pictures.
        method: A name of `ms_adam.reference`, or ``module:callable``, which is called with
            `options` and returns an object with `init` and `step` as those have; or a class of
            ``mindspore.nn.Optimizer``, called with parameters and `options`.
        options: Its keyword arguments.
        steps: Number of steps over a function; a linear fit says it by its epochs.
    """

    name: Text
    method: Text
    options: dict[str, Any] = {}
    steps: Optional[Count] = None


class Animation(Section):
    """A 3-D picture (PNG) and an animated one (GIF) for each function."""

    frames: Annotated[Count, Field(ge=2, le=400)]
    seconds: Annotated[Number, Field(gt=0)]


class Figure(Section):
    """The layout.

    Attributes:
        panels: Whether each optimizer or each function has a panel of its own over contours.
        columns: Number of panels side by side.
        animation: None for no 3-D pictures.
    """

    panels: Literal["optimizers", "functions"]
    columns: Annotated[Count, Field(le=8)]
    animation: Optional[Animation] = None


class LinearFit(Section):
    """Points x from a normal distribution in the plane, y = weights . x + noise.

    Attributes:
        noise: The noise is uniform from -noise to noise.
        batch_size: The last batch of an epoch is smaller if the points do not divide evenly.
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
        """Number of batches in all epochs."""
        return self.epochs * -(-self.points // self.batch_size)

    @pydantic.model_validator(mode="after")
    def _batch_fits(self) -> LinearFit:
        if self.batch_size > self.points:
            raise ValueError(f"batch_size = {self.batch_size} is more than points = {self.points}")
        return self


class Comparison(StudyConfig):
    """A comparison; see ``configs/trajectories/sphere.yaml`` and ``linear.yaml``.

    Attributes:
        mindspore: Whether what MindSpore has for each method of `ms_adam.reference` runs too.
        functions: Where the paths lie; with `figure`, and without `linear_fit`.
    """

    study: Literal["trajectories"]
    mindspore: bool
    functions: Annotated[Optional[list[Place]], Field(min_length=1)] = None
    optimizers: Annotated[list[Optimizer], Field(min_length=1)]
    figure: Optional[Figure] = None
    linear_fit: Optional[LinearFit] = None

    def described(self) -> dict[str, Any]:
        """Returns the config for ``trajectories.json``, without keys that are of no use to it."""
        unused: dict[str, Any] = {"study": True, "linear_fit": True}
        if self.linear_fit:
            unused = {"study": True, "functions": True, "figure": True}
            unused["optimizers"] = {"__all__": {"steps"}}
        return self.model_dump(mode="json", exclude=unused)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Comparison:
        if (self.linear_fit is None) == (self.functions is None):
            raise ValueError("give either functions and figure, or linear_fit")
        names = [entry.name for entry in self.optimizers]
        _different("optimizers", names)
        if self.linear_fit:
            self._fits_linear()
        else:
            self._fits_functions(names)
        return self

    def _fits_linear(self) -> None:
        if self.figure is not None:
            raise ValueError("figure is for functions; a linear fit has one layout")
        for entry in self.optimizers:
            if entry.steps is not None:
                raise ValueError(f"optimizers, {entry.name}: steps follow from linear_fit.epochs")

    def _fits_functions(self, names: list[str]) -> None:
        if self.figure is None:
            raise ValueError("the key 'figure' is missing; functions need it")
        for entry in self.optimizers:
            if entry.steps is None:
                raise ValueError(f"optimizers, {entry.name}: the key 'steps' is missing")
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
                "figure.panels = 'optimizers': a panel for each optimizer is for one function, but "
                f"there are {len(self.functions)}"
            )


def _different(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: each needs a name of its own; twice there: {', '.join(twice)}")
