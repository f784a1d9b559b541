"""What a config names: methods and functions by name, and Python callables as module:callable."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from ms_adam import reference
from ms_adam.lab.errors import UserError
from ms_adam.lab.problems.functions import FUNCTIONS, Function
from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.studies.trajectories.config import Optimizer, Place
from ms_adam.lab.targets import load_callable

METHODS = {
    name: method
    for name, method in ((name, getattr(reference, name)) for name in reference.__all__)
    if reference.Method in getattr(method, "__bases__", ())
    and method is not reference.CannAdamW  # a rounding of Adam, whose path looks the same
}


class MindSporeOptimizer(NamedTuple):
    """A MindSpore optimizer: its class by name, and what makes it from a list of parameters."""

    name: str
    build: Callable[[list], Any]


def method_at(entry: Optimizer, folder: Path, place: Optional[Place] = None) -> Any:
    """Builds the optimizer of a config, with the learning rate that is meant for this function.

    Returns:
        An object with `init` and `step`, as `ms_adam.reference.Method`; or a `MindSporeOptimizer`
        if the config names such a class.

    Raises:
        ConfigError: There is no such method, or it refuses its options.
    """
    options = dict(entry.options)
    if place is not None and entry.name in place.learning_rates:
        options["learning_rate"] = place.learning_rates[entry.name]
    try:
        return _build(entry.method, options, folder)
    except UserError as error:
        raise ConfigError(f"optimizers, {entry.name}: {error}") from error


def _build(name: str, options: dict[str, Any], folder: Path) -> Any:
    if ":" in name:
        factory = load_callable(name, [folder])
        mindspore = sys.modules.get("mindspore")  # a module with an optimizer of it imports it
        if mindspore and isinstance(factory, type) and issubclass(factory, mindspore.nn.Optimizer):
            build = functools.partial(factory, **options)
            _attempt(name, build, [mindspore.Parameter(np.zeros(2, np.float32), name="weights")])
            return MindSporeOptimizer(name.replace(":", "."), build)
    elif name in METHODS:
        factory = METHODS[name]
        allowed = [field.name for field in dataclasses.fields(factory)]
        if unknown := ", ".join(sorted(map(str, set(options) - set(allowed)))):
            raise ConfigError(f"{name} has no option {unknown}; it has {', '.join(allowed)}")
    else:
        raise ConfigError(
            f"there is no method '{name}'; there are {', '.join(sorted(METHODS))}, "
            "and module:callable"
        )
    method = _attempt(name, factory, **options)
    for part in ("init", "step"):
        if not callable(getattr(method, part, None)):
            raise ConfigError(f"'{name}': what it returns has no {part}(): {method!r}")
    return method


def _attempt(name: str, factory: Callable, *parameters: Any, **options: Any) -> Any:
    try:
        return factory(*parameters, **options)
    except Exception as error:  # the user's own code, or a value that a method refuses
        raise ConfigError(f"{name}: {error}") from error


def load_function(place: Place, folder: Path) -> Function:
    """Loads the function of a config, and tries it once, at its start, in an array of three.

    Raises:
        UserError: There is none of that name, or it does not return what it must.
    """
    if ":" not in place.function:
        if place.function not in FUNCTIONS:
            raise ConfigError(
                f"there is no function '{place.function}'; there are "
                f"{', '.join(FUNCTIONS)}, and module:callable"
            )
        return FUNCTIONS[place.function]
    value = load_callable(place.function, [folder])
    slopes = load_callable(place.gradient, [folder]) if place.gradient else None
    function = Function(place.label, value, slopes)
    x, y = (np.full(3, coordinate, dtype=np.float64) for coordinate in place.start)
    called = f"'{place.function}': at three points at once, x = {x} and y = {y}"
    try:
        values, gradients = np.asarray(value(x, y), dtype=np.float64), function.gradient(x, y)
    except Exception as error:  # the user's own code, which may raise anything
        raise ConfigError(f"{called}: {type(error).__name__}: {error}") from error
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ConfigError(f"{called}, it must give three finite numbers, but gave {values}")
    if gradients.shape != (2, 3):
        raise ConfigError(f"'{place.gradient}': must give (df/dx, df/dy), each of the shape of x")
    return function
