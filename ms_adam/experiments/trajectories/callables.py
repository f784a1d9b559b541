"""What a config names: methods of `ms_adam.reference`, and Python callables as module:callable."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
from pathlib import Path
from typing import Any, Callable, Optional

from ms_adam import reference
from ms_adam.experiments.config import ConfigError
from ms_adam.experiments.trajectories.config import Optimizer, Place

METHODS = {name: cls for name, cls in vars(reference).items()
           if isinstance(cls, type) and issubclass(cls, reference.Method)
           and cls is not reference.Method}


def load_callable(name: str, folder: Path) -> Callable:
    """The callable of a name like ``package.module:function``.

    Args:
        name: Module and attribute, parted by a colon.
        folder: Modules are looked for here first, then in the working directory, then where Python
            looks for every module. Importing a module runs it.

    Raises:
        ConfigError: There is no such module or attribute, or it can not be called.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"'{name}': must be module:callable")
    try:
        with _import_from(folder.resolve(), Path.cwd()):
            found = importlib.import_module(module_name)
    except Exception as error:  # the user's own code, which may raise anything
        raise ConfigError(f"'{name}': importing {module_name} failed: "
                          f"{type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"'{name}': {module_name} has no '{attribute}'")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"'{name}': is {found!r}, which can not be called")
    return found


def build_method(name: str, options: dict[str, Any], folder: Path):
    """The optimizer that a config describes.

    Returns:
        An object with `init` and `step`, as `ms_adam.reference.Method`; or a function of a list of
        parameters, if the name is that of a class of MindSpore optimizers.

    Raises:
        ConfigError: There is no such method, or it refuses its options.
    """
    if ":" in name:
        factory = load_callable(name, folder)
        if _is_mindspore_optimizer(factory):
            return MindSporeOptimizer(name.replace(":", "."), factory, options)
    elif name in METHODS:
        factory = METHODS[name]
        allowed = [field.name for field in dataclasses.fields(factory)]
        unknown = ", ".join(sorted(map(str, set(options) - set(allowed))))
        if unknown:
            raise ConfigError(f"{name} has no option {unknown}; it has {', '.join(allowed)}")
    else:
        raise ConfigError(f"there is no method '{name}'; there are {', '.join(sorted(METHODS))}, "
                          "and module:callable")
    try:
        method = factory(**options)
    except Exception as error:  # the user's own code again, or a value that a method refuses
        raise ConfigError(f"{name}: {error}") from error
    for part in ("init", "step"):
        if not callable(getattr(method, part, None)):
            raise ConfigError(f"'{name}': what it returns has no {part}(): {method!r}")
    return method


@dataclasses.dataclass(frozen=True)
class MindSporeOptimizer:
    """A class of MindSpore optimizers and what it gets besides the parameters."""

    name: str
    factory: Callable
    options: dict[str, Any]

    def build(self, parameters):
        return self.factory(parameters, **self.options)


def _is_mindspore_optimizer(factory: Callable) -> bool:
    # A module that was imported for its optimizer has imported MindSpore, if it is one of its.
    mindspore = sys.modules.get("mindspore")
    return (mindspore is not None and isinstance(factory, type)
            and issubclass(factory, mindspore.nn.Optimizer))


@contextlib.contextmanager
def _import_from(*folders: Path):
    path = sys.path[:]
    sys.path[:0] = [os.fspath(folder) for folder in folders]
    importlib.invalidate_caches()  # a module may have been written a moment ago
    try:
        yield
    finally:
        sys.path[:] = path


def method_at(entry: Optimizer, folder: Path, place: Optional[Place] = None):
    """The optimizer of a config, with the learning rate that is meant for this function."""
    options = dict(entry.options)
    if place is not None and entry.name in place.learning_rates:
        options["learning_rate"] = place.learning_rates[entry.name]
    try:
        return build_method(entry.method, options, folder)
    except ConfigError as error:
        raise ConfigError(f"optimizers, {entry.name}: {error}") from error
