"""From "package.module.Class" to something callable whose arguments are known."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
from numbers import Real
from typing import Any, Callable, Dict, NamedTuple, Optional

from ms_adam.errors import UserError

# What an argument is called, by what it means: the first of these that there is.
ROLES = {
    "learning_rate": ("learning_rate", "lr"),
    "beta1": ("beta1",),
    "beta2": ("beta2",),
    "betas": ("betas",),
    "eps": ("eps", "epsilon"),
    "weight_decay": ("weight_decay",),
    "nesterov": ("use_nesterov", "nesterov"),
    "amsgrad": ("use_amsgrad", "amsgrad"),
    "momentum": ("momentum",),
    "momentum_decay": ("momentum_decay",),
    "rho": ("decay", "rho", "alpha", "beta"),
    "accumulator": ("accum", "initial_accumulator_value", "initial_accumulator"),
}


# Values for roles that neither signature nor user gives one.
FILLED = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "betas": (0.9, 0.999), "eps": 1e-8,
          "weight_decay": 0.0, "momentum": 0.9}


class Target(NamedTuple):
    """What is to be identified.

    Attributes:
        name: as the user gave it.
        factory: a class or function.
        parameters: of its signature, without what is optimized.
        optimizes: the name of the argument for what is optimized; None if there is none.
        options: what the user wants to have set.
    """

    name: str
    factory: Callable[..., Any]
    parameters: Dict[str, inspect.Parameter]
    optimizes: Optional[str]
    options: Dict[str, Any]

    def argument(self, role):
        """What this target calls a role; None if it has no such argument."""
        for name in ROLES[role]:
            parameter = self.parameters.get(name)
            # a word there is another thing: epsilon="hat" of reference.Adam
            if name in self.options or (parameter is not None
                                        and not isinstance(parameter.default, str)):
                return name
        return None

    def given(self, role):
        """What the user or the signature says for a role; None if neither."""
        name = self.argument(role)
        if name is None:
            return None
        default = self.parameters[name].default if name in self.parameters else None
        return self.options.get(name, None if default is inspect.Parameter.empty else default)

    def takes(self, role):
        """Whether the role can be set, beta1 and beta2 also together."""
        together = "betas" if role in ("beta1", "beta2") else role
        return self.argument(role) is not None or self.argument(together) is not None

    def values(self):
        """The numbers that user or signature give, by role."""
        found = {role: self.given(role) for role in ROLES}
        betas = found.pop("betas")
        if isinstance(betas, (tuple, list)) and len(betas) == 2:
            found["beta1"], found["beta2"] = betas
        return {role: float(value) for role, value in found.items()
                if isinstance(value, Real) and not isinstance(value, bool)}

    def make(self, parameters, **roles):
        """The optimizer of a list of parameters, with some roles set for this time."""
        options = {self.argument(role): value for role, value in FILLED.items()
                   if self.argument(role) is not None and self.given(role) is None}
        options.update(self.options)
        if self.argument("betas") is not None:
            values = {**FILLED, **self.values()}
            betas = tuple(roles.pop(role, values[role]) for role in ("beta1", "beta2"))
            if betas != tuple(values[role] for role in ("beta1", "beta2")):
                options[self.argument("betas")] = betas
        options.update({self.argument(role): value for role, value in roles.items()})
        if self.optimizes is None:
            return self.factory(**options)
        return self.factory(**{self.optimizes: parameters}, **options)

    def check_complete(self):
        """UserError if an argument has no value: from its default, the user, or FILLED."""
        filled = {self.argument(role) for role in FILLED}
        missing = [name for name, parameter in self.parameters.items()
                   if parameter.default is parameter.empty and name not in {*self.options, *filled}]
        if missing:
            raise UserError(f"{self.name} needs {', '.join(missing)}: add "
                            + " ".join(f"--set {name}=VALUE" for name in missing)
                            + f"\nits arguments: {self.arguments()}")

    def arguments(self):
        """The signature in words, without what is optimized."""
        return _written(self.parameters)

    def __str__(self):
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return self.name + (f"({options})" if options else "")


def find(path, options=None):
    """The target of a path, "package.module.Class" or "package.module:factory".

    Raises:
        UserError: there is no such thing, or it does not take the options; says what is near.
    """
    factory = _load(path)
    if not callable(factory):
        raise UserError(f"{path} is a {type(factory).__name__}, not a class or function that makes "
                        f"an optimizer")
    return describe(path, factory, options)


def describe(name, factory, options=None):
    """A `Target` of a class or function that is at hand.

    Raises:
        UserError: an option is not one of its arguments.
    """
    options = dict(options or {})
    everything = _signature(factory).parameters.values()
    any_option = any(parameter.kind is parameter.VAR_KEYWORD for parameter in everything)
    parameters = {parameter.name: parameter for parameter in everything
                  if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)}
    optimizes = _optimized(list(parameters.values()))
    parameters.pop(optimizes, None)
    for key in options:
        if key == optimizes:
            raise UserError(f"{name}: '{key}' is what is optimized; it can not be set")
        if key not in parameters and not any_option:
            raise UserError(f"{name} has no argument '{key}'{_near(key, parameters)}\n"
                            f"its arguments: {_written(parameters)}")
    return Target(name, factory, parameters, optimizes, options)


def _optimized(parameters):
    """The name of the argument that takes what is optimized: the first one, unless it is a number.

    MindSpore's base class has it second.
    """
    names = [parameter.name for parameter in parameters]
    for name in ("params", "parameters"):
        if name in names:
            return name
    known = {word for words in ROLES.values() for word in words}
    if parameters and parameters[0].default is parameters[0].empty and names[0] not in known:
        return names[0]
    return None


def _load(path):
    module_path, _, attribute = path.partition(":")
    if attribute:
        return _attribute(_module(module_path, path), attribute, path)
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UserError(f"'{path}' is no path of a class: write package.module.Class or "
                        f"package.module:factory, as in mindspore.nn.Adam")
    holder = _module(parts[0], path)
    for depth, part in enumerate(parts[1:], 2):
        name = ".".join(parts[:depth])
        if inspect.ismodule(holder) and part not in vars(holder) and _exists(name):
            _module(name, path)
        holder = _attribute(holder, part, path)
    return holder


def _exists(module_path):
    try:
        return importlib.util.find_spec(module_path) is not None
    except (ImportError, ValueError):
        return False


def _module(module_path, path):
    if not all(part.isidentifier() for part in module_path.split(".")):
        raise UserError(f"'{path}': '{module_path}' is no name of a module")
    top = module_path.split(".", maxsplit=1)[0]
    if not _exists(top):
        tops = {"mindspore", "ms_adam", "torch", *(it.name for it in pkgutil.iter_modules())}
        raise UserError(f"there is no module '{top}' here{_near(top, tops)}")
    try:
        return importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_path + ".").startswith(error.name + "."):
            raise UserError(f"there is no module '{module_path}'") from error
        raise UserError(f"{module_path} can not be imported: {error}") from error
    except Exception as error:
        raise UserError(f"{module_path} can not be imported: {type(error).__name__}: {error}"
                        ) from error


def _attribute(holder, name, path):
    try:
        return getattr(holder, name)
    except ImportError as error:  # raised by a package that loads its names on first use
        raise UserError(f"{path} can not be imported: {error}") from error
    except AttributeError:
        where = getattr(holder, "__name__", str(holder))
        raise UserError(f"'{path}': {where} has no '{name}'{_near(name, dir(holder))}") from None


def _near(word, words):
    folded = {}
    for candidate in words:
        if not candidate.startswith("_"):
            folded.setdefault(candidate.lower(), candidate)
    near = [folded[match] for match in difflib.get_close_matches(word.lower(), folded, 3, 0.6)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _signature(factory):
    """The signature of a class's __init__ without self, or of a function."""
    if not inspect.isclass(factory):
        function = factory
    else:
        function = _unwrapped(factory.__init__)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise UserError(f"the arguments of {factory} can not be read: {error}") from error
    if inspect.isclass(factory):
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    return signature


def _unwrapped(init):
    """The __init__ within MindSpore's decorators, which hide its arguments behind *args."""
    kinds = {parameter.kind for parameter in list(inspect.signature(init).parameters.values())[1:]}
    if inspect.isfunction(init) and kinds <= {inspect.Parameter.VAR_POSITIONAL,
                                              inspect.Parameter.VAR_KEYWORD}:
        for cell in init.__closure__ or ():
            inner = cell.cell_contents
            if inspect.isfunction(inner) and _unwrapped(inner).__name__ == "__init__":
                return _unwrapped(inner)
    return init


def _written(parameters):
    return ", ".join(name if parameter.default is parameter.empty
                     else f"{name}={parameter.default!r}"
                     for name, parameter in parameters.items())
