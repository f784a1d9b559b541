"""The config of a comparison of optimizers, checked before anything runs.

With ``functions`` and ``figure`` it describes paths over functions of the plane; with
``linear_fit``, a linear model of two weights on mini-batches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    """A function of the plane, where the paths start on it, and what part of it is shown.

    `function` and `gradient` are names for `methods.load_function`; learning rates stand by the
    optimizer's name. `seen_from` is for 3-D: degrees above the plane, and around the z axis from x.
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

    def faults(self) -> Iterator[str]:
        if self.gradient is not None and ":" not in self.function:
            yield (
                f"gradient = {self.gradient!r} is for a function of your own (module:callable); "
                f"that of {self.function!r} is known"
            )
        for axis, value, (low, high) in zip("xy", self.start, (self.x, self.y)):
            if not low <= value <= high:
                range_of = f"{axis} goes from {low} to {high}"
                yield f"start = {self.start} is not in the picture: {range_of}"

    @property
    def label(self) -> str:
        """The function's name in files and rows."""
        return self.name or re.sub("[:/]", ".", self.function)


class Optimizer(Section):
    """An optimizer: its name in files and pictures, and what `methods.method_at` makes it of.

    A linear fit says the number of steps by its epochs.
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
    """What has a panel of its own over contours, and how many panels stand side by side."""

    panels: Literal["optimizers", "functions"]
    columns: Annotated[Count, Field(le=8)]
    animation: Optional[Animation] = None


class LinearFit(Section):
    """Points x from a normal distribution in the plane, y = weights . x + noise."""

    points: Count
    weights: Pair
    noise: Annotated[Number, Field(ge=0)]
    batch_size: Count
    epochs: Count
    seed: Seed
    start: Pair

    def faults(self) -> Iterator[str]:
        if self.batch_size > self.points:
            yield f"batch_size = {self.batch_size} is more than points = {self.points}"


class Comparison(StudyConfig):
    """A comparison. ``sphere.yaml``, ``surfaces.yaml`` and ``linear.yaml`` describe each key."""

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

    def faults(self) -> Iterator[str]:
        fit, places, figure = self.linear_fit, self.functions or [], self.figure
        names = [entry.name for entry in self.optimizers]
        if (fit is None) == (self.functions is None):
            yield "give either functions and figure, or linear_fit"
        if fit and figure:
            yield "figure is for functions; a linear fit has one layout"
        if places and not figure:
            yield "the key 'figure' is missing; functions need it"
        for key, labels in (("optimizers", names), ("functions", [it.label for it in places])):
            if twice := sorted({label for label in labels if labels.count(label) > 1}):
                yield f"{key}: each needs a name of its own; twice there: {', '.join(twice)}"
        for entry in self.optimizers:
            if fit and entry.steps is not None:
                yield f"optimizers, {entry.name}: steps follow from linear_fit.epochs"
            if places and entry.steps is None:
                yield f"optimizers, {entry.name}: the key 'steps' is missing"
        for place in places:
            if unknown := sorted(set(place.learning_rates) - set(names)):
                yield (
                    f"functions, {place.label}: learning_rates names {', '.join(unknown)}; "
                    f"the optimizers are {', '.join(names)}"
                )
        if figure and figure.panels == "optimizers" and len(places) > 1:
            yield (
                "figure.panels = 'optimizers': a panel for each optimizer is for one function, but "
                f"there are {len(places)}"
            )
