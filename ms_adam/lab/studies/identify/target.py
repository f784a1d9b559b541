"""From "package.module.Class" to something callable whose arguments are known."""

from __future__ import annotations

import functools
import inspect
from numbers import Real
from typing import Any, Callable, Dict, NamedTuple, Optional

from ms_adam.lab.errors import UserError
from ms_adam.lab.loader import load_callable, suggestion

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
FILLED = {
    "learning_rate": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "momentum": 0.9,
}


class Target(NamedTuple):
    """What is to be identified.

    Attributes:
        name: as the user gave it.
        factory: a class, a function, or any other callable that returns an optimizer.
        parameters: of its signature, without what is optimized.
        optimizes: the name of the argument for what is optimized; None if there is none.
        options: what the user wants to have set.
        by_keyword: whether that argument can be given by its name.
    """

    name: str
    factory: Callable[..., Any]
    parameters: Dict[str, inspect.Parameter]
    optimizes: Optional[str]
    options: Dict[str, Any]
    by_keyword: bool = True

    def argument(self, role):
        """What this target calls a role; None if it has no such argument."""
        for name in ROLES[role]:
            parameter = self.parameters.get(name)
            # a word there is another thing: epsilon="hat" of reference.Adam
            if name in self.options or (
                parameter is not None and not isinstance(parameter.default, str)
            ):
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
        return {
            role: float(value)
            for role, value in found.items()
            if isinstance(value, Real) and not isinstance(value, bool)
        }

    def make(self, parameters, **roles):
        """The optimizer of a list of parameters, with some roles set for this time."""
        options = {
            self.argument(role): value
            for role, value in FILLED.items()
            if self.argument(role) is not None and self.given(role) is None
        }
        options.update(self.options)
        if self.argument("betas") is not None:
            values = {**FILLED, **self.values()}
            betas = tuple(roles.pop(role, values[role]) for role in ("beta1", "beta2"))
            if betas != tuple(values[role] for role in ("beta1", "beta2")):
                options[self.argument("betas")] = betas
        options.update({self.argument(role): value for role, value in roles.items()})
        if self.optimizes is None:
            return self.factory(**options)
        if not self.by_keyword:
            return self.factory(parameters, **options)
        return self.factory(**{self.optimizes: parameters}, **options)

    def check_complete(self):
        """UserError if an argument has no value: from its default, the user, or FILLED."""
        filled = {self.argument(role) for role in FILLED}
        missing = [
            name
            for name, parameter in self.parameters.items()
            if parameter.default is parameter.empty and name not in {*self.options, *filled}
        ]
        if missing:
            raise UserError(
                f"{self.name} needs {', '.join(missing)}: add "
                + " ".join(f"--set {name}=VALUE" for name in missing)
                + f"\nits arguments: {self.arguments()}"
            )

    def arguments(self):
        """The signature in words, without what is optimized."""
        return _written(self.parameters)

    def __str__(self):
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return self.name + (f"({options})" if options else "")


def find(path, options=None):
    """The target of a path, as `ms_adam.lab.loader.load_callable` takes it.

    Raises:
        UserError: there is no such thing, or it does not take the options; says what is near.
    """
    return describe(path, load_callable(path), options)


def describe(name, factory, options=None):
    """A `Target` of a class or function that is at hand.

    Raises:
        UserError: an option is not one of its arguments.
    """
    options = dict(options or {})
    everything = _signature(factory).parameters.values()
    any_option = any(parameter.kind is parameter.VAR_KEYWORD for parameter in everything)
    any_position = [
        parameter for parameter in everything if parameter.kind is parameter.VAR_POSITIONAL
    ]
    parameters = {
        parameter.name: parameter
        for parameter in everything
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    optimizes, by_keyword = _optimized(list(parameters.values())), True
    if optimizes is not None:
        by_keyword = parameters.pop(optimizes).kind is not inspect.Parameter.POSITIONAL_ONLY
    elif any_position and not parameters:  # as a function that hands on *args and **kwargs
        optimizes, by_keyword = any_position[0].name, False
    for key in options:
        if key == optimizes:
            raise UserError(f"{name}: '{key}' is what is optimized; it can not be set")
        if key not in parameters and not any_option:
            raise UserError(
                f"{name} has no argument '{key}'{suggestion(key, parameters)}\n"
                f"its arguments: {_written(parameters)}"
            )
    return Target(name, factory, parameters, optimizes, options, by_keyword)


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


def _signature(factory):
    """The signature of a callable as its caller sees it: of a class without self or cls."""
    try:
        if isinstance(factory, functools.partial):
            # of what is within, since inspect does not look behind MindSpore's decorators
            return inspect.signature(
                functools.partial(
                    _stand_in(_signature(factory.func)), *factory.args, **factory.keywords
                )
            )
        if not inspect.isclass(factory):
            return inspect.signature(factory)
        signature = _of_class(factory)
        return signature.replace(parameters=list(signature.parameters.values())[1:])
    except (TypeError, ValueError) as error:
        raise UserError(f"the arguments of {factory} cannot be read: {error}") from error


def _stand_in(signature):
    def function():
        """Has a signature, and is never called."""

    function.__signature__ = signature
    return function


def _of_class(factory):
    """The signature of the method that takes a class's arguments: the first that names any.

    A metaclass may have a __call__, and a class a __new__ that returns something else.
    """
    for method in (type(factory).__call__, factory.__new__):
        if inspect.isfunction(method):
            signature = inspect.signature(method)
            if not _is_open(list(signature.parameters.values())[1:]):
                return signature
    return inspect.signature(_unwrapped(factory.__init__))


def _is_open(parameters):
    """Whether parameters are *args and **kwargs only, or none."""
    return {parameter.kind for parameter in parameters} <= {
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    }


def _unwrapped(init):
    """The __init__ within MindSpore's decorators, which hide its arguments behind *args."""
    if inspect.isfunction(init) and _is_open(list(inspect.signature(init).parameters.values())[1:]):
        for cell in init.__closure__ or ():
            inner = cell.cell_contents
            if inspect.isfunction(inner) and _unwrapped(inner).__name__ == "__init__":
                return _unwrapped(inner)
    return init


def _written(parameters):
    return ", ".join(
        name if parameter.default is parameter.empty else f"{name}={parameter.default!r}"
        for name, parameter in parameters.items()
    )
