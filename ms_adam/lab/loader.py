"""Loads what users name: classes, factory functions and other callables."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable

from ms_adam.lab.errors import UserError


def load_callable(name: str, folders: Iterable[Path] = ()) -> Callable:
    """Loads the callable of a name: a class, a function, a `functools.partial`.

        mindspore.nn.Adam           package.module.Class, or a path further in: module.Class.method
        my_script:make_optimizer    module:function, or module:Class.method
        folder/script.py:make       file.py:function

    Importing a module runs it.

    Args:
        name: As above.
        folders: Modules are looked for here first, then in the working directory, then where
            Python looks for every module. The folders stay on ``sys.path``, since a function may
            import its neighbours when it is called.

    Raises:
        UserError: There is no such module or attribute, or it cannot be called. The message says
            what has a similar name.
    """
    _look_in(*map(os.fspath, folders), os.getcwd())
    before, colon, after = name.rpartition(":")
    if colon:
        attributes = after.split(".")
        if not all(part.isidentifier() for part in attributes):
            raise UserError(f"'{name}': '{after}' is not the name of a function or class")
        found = _file(Path(before)) if before.endswith(".py") else _module(before, name)
    else:
        first, *attributes = name.split(".")
        if not attributes or not all(part.isidentifier() for part in (first, *attributes)):
            raise UserError(
                f"'{name}' names no class or function: write package.module.Class or "
                "package.module:function, as in mindspore.nn.Adam"
            )
        found = _module(first, name)
    for attribute in attributes:
        if not colon and inspect.ismodule(found) and attribute not in vars(found):
            submodule = f"{found.__name__}.{attribute}"
            if _exists(submodule):
                found = _module(submodule, name)
                continue
        found = _attribute(found, attribute, name)
    if not callable(found):
        raise UserError(f"{name} is a {type(found).__name__}, not a class or function")
    return found


def suggestion(word: str, words: Iterable[str]) -> str:
    """The end of an error message: which of some words are close to a misspelt one, if any."""
    folded = {}
    for candidate in words:
        if not candidate.startswith("_"):
            folded.setdefault(candidate.lower(), candidate)
    near = [folded[match] for match in difflib.get_close_matches(word.lower(), folded, 3, 0.6)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def kind(value: Any) -> str:
    """What a callable returned, for error messages: "Dense", "None", "tuple of 2", "the class X"."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    many = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"{type(value).__name__}{many}"


def _look_in(*folders: str) -> None:
    importlib.invalidate_caches()  # a module may have been written a moment ago
    for folder in reversed(folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def _exists(module_name: str) -> bool:
    if module_name in sys.modules:  # a module made by hand has no spec
        return True
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        return False


def _module(module_name: str, name: str):
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(f"'{name}': '{module_name}' is not the name of a module")
    top = module_name.split(".", maxsplit=1)[0]
    if not _exists(top):
        tops = {"mindspore", "ms_adam", "torch", *(it.name for it in pkgutil.iter_modules())}
        raise UserError(f"'{name}': there is no module '{top}' here{suggestion(top, tops)}")
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"'{name}': there is no module '{module_name}'") from error
        raise _import_error(module_name, error) from error
    except Exception as error:  # the user's own code, which may raise anything
        raise _import_error(module_name, error) from error


def _file(path: Path):
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    _look_in(os.fspath(path.parent.resolve()))  # the file may import its neighbours
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # MindSpore's compiler looks up the module of what it compiles
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # as in `_module`
        raise _import_error(path, error) from error
    return module


def _import_error(what: Any, error: Exception) -> UserError:
    return UserError(f"{what} cannot be imported: {type(error).__name__}: {error}")


def _attribute(holder: Any, attribute: str, name: str):
    try:
        return getattr(holder, attribute)
    except ImportError as error:  # raised by a package that loads its names on first use
        raise UserError(f"{name} cannot be imported: {error}") from error
    except AttributeError:
        where = getattr(holder, "__name__", str(holder))
        near = suggestion(attribute, dir(holder))
        raise UserError(f"'{name}': {where} has no '{attribute}'{near}") from None
