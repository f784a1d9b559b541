"""What a config names: methods of `ms_adam.reference`, and Python callables as module:callable."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Callable, Optional

from ms_adam import reference
from ms_adam.lab.errors import UserError
from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.studies.trajectories.config import Optimizer, Place
from ms_adam.lab.targets import load_callable

METHODS = {
    name: cls
    for name, cls in vars(reference).items()
    if isinstance(cls, type) and issubclass(cls, reference.Method) and cls is not reference.Method
}


@dataclasses.dataclass(frozen=True)
class MindSporeOptimizer:
    """A class of MindSpore optimizers and its arguments besides the parameters."""

    name: str
    factory: Callable[..., Any]
    options: dict[str, Any]

    def build(self, parameters: list) -> Any:
        """Returns the optimizer of a list of parameters."""
        return self.factory(parameters, **self.options)


def build_method(name: str, options: dict[str, Any], folder: Path) -> Any:
    """Builds the optimizer that a config describes.

    Returns:
        An object with `init` and `step`, as `ms_adam.reference.Method`; or a `MindSporeOptimizer`
        if the name is that of such a class.

    Raises:
        UserError: There is no such method, or it refuses its options.
    """
    if ":" in name:
        factory = load_callable(name, [folder])
        if _is_mindspore_optimizer(factory):
            return MindSporeOptimizer(name.replace(":", "."), factory, options)
    elif name in METHODS:
        factory = METHODS[name]
        allowed = [field.name for field in dataclasses.fields(factory)]
        unknown = ", ".join(sorted(map(str, set(options) - set(allowed))))
        if unknown:
            raise ConfigError(f"{name} has no option {unknown}; it has {', '.join(allowed)}")
    else:
        raise ConfigError(
            f"there is no method '{name}'; there are {', '.join(sorted(METHODS))}, "
            "and module:callable"
        )
    try:
        method = factory(**options)
    except Exception as error:  # the user's own code, or a value that a method refuses
        raise ConfigError(f"{name}: {error}") from error
    for part in ("init", "step"):
        if not callable(getattr(method, part, None)):
            raise ConfigError(f"'{name}': what it returns has no {part}(): {method!r}")
    return method


def _is_mindspore_optimizer(factory: Callable) -> bool:
    # The module of an optimizer of MindSpore has imported MindSpore.
    mindspore = sys.modules.get("mindspore")
    return (
        mindspore is not None
        and isinstance(factory, type)
        and issubclass(factory, mindspore.nn.Optimizer)
    )


def method_at(entry: Optimizer, folder: Path, place: Optional[Place] = None) -> Any:
    """Builds the optimizer of a config, with the learning rate that is meant for this function."""
    options = dict(entry.options)
    if place is not None and entry.name in place.learning_rates:
        options["learning_rate"] = place.learning_rates[entry.name]
    try:
        return build_method(entry.method, options, folder)
    except UserError as error:
        raise ConfigError(f"optimizers, {entry.name}: {error}") from error
