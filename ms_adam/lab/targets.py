"""Any optimizer by name: find it, build it, step it, read its state.

    target = find("mindspore.nn.Adam", {"use_amsgrad": True})
    optimizer = target.build(parameters, learning_rate=0.01)
    optimizer.step(gradients)                # NumPy arrays, one for each parameter
    optimizer.state()["moment1"]

Optimizers of MindSpore and torch update the framework's parameters. Methods of `ms_adam.reference`
update float64 copies of the arrays or tensors that they are built for.

Python 3.7 syntax, and no import of a framework before it is needed: the tests of the optimizer on
MindSpore 2.0.0 import this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import math
import os
import pkgutil
import sys
from numbers import Real
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from ms_adam.lab.errors import UserError

# --- callables by name -------------------------------------------------------------------------


def load_callable(name: str, folders=()) -> Callable:
    """Loads a callable by its name: a class, a function, a `functools.partial`.

        mindspore.nn.Adam           package.module.Class, or a longer path: module.Class.method
        my_script:make_optimizer    module:function, or module:Class.method
        folder/script.py:make       file.py:function

    Importing a module runs it. Modules are searched for in the folders, then in the working
    directory, then where Python searches for them. The folders stay on ``sys.path``, since a
    function may import its neighbours when it is called.

    Raises:
        UserError: The module or attribute is missing, or it cannot be called. The message
            suggests similar names.
    """
    _search_in(*map(os.fspath, folders), os.getcwd())
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
        submodule = f"{getattr(found, '__name__', '')}.{attribute}"
        unseen = not colon and inspect.ismodule(found) and attribute not in vars(found)
        if unseen and _exists(submodule):
            found = _module(submodule, name)
        else:
            found = _attribute(found, attribute, name)
    if not callable(found):
        raise UserError(f"{name} is a {type(found).__name__}, not a class or function")
    return found


def suggestion(word: str, words) -> str:
    """The end of an error message: the words that are close to a misspelt one, if any."""
    folded = {}
    for candidate in words:
        if not candidate.startswith("_"):
            folded.setdefault(candidate.lower(), candidate)
    near = [folded[match] for match in difflib.get_close_matches(word.lower(), folded, 3, 0.6)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def kind(value: Any) -> str:
    """A value in error messages: "Dense", "None", "tuple of 2", "the class X"."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    many = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"{type(value).__name__}{many}"


def one_line(error: BaseException) -> str:
    """The type of an error and the first line of its message that is not empty or a rule."""
    # A KeyError's text is the representation of its message.
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip(" -=")]
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text[:160]}".rstrip(": ")


def _search_in(*folders):
    importlib.invalidate_caches()  # a module may have been written a moment ago
    for folder in reversed(folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def _exists(module_name):
    if module_name in sys.modules:  # a module made by hand has no spec
        return True
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        return False


def _module(module_name, name):
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
    except (Exception, SystemExit) as error:  # of the user's own code, which may raise anything
        raise _import_error(module_name, error) from error


def _file(path):
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    _search_in(os.fspath(path.parent.resolve()))  # the file may import its neighbours
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # MindSpore's compiler looks up the module of its source
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # as in `_module`
        raise _import_error(path, error) from error
    return module


def _import_error(name, error):
    return UserError(f"{name} cannot be imported: {type(error).__name__}: {error}")


def _attribute(holder, attribute, name):
    try:
        return getattr(holder, attribute)
    except ImportError as error:  # raised by a package that loads its names on first use
        raise UserError(f"{name} cannot be imported: {error}") from error
    except AttributeError:
        where = getattr(holder, "__name__", str(holder))
        near = suggestion(attribute, dir(holder))
        raise UserError(f"'{name}': {where} has no '{attribute}'{near}") from None


# --- targets -----------------------------------------------------------------------------------

# The names of an argument by its role; the first that a target has is used.
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

# Values of roles that neither the signature nor the caller gives.
DEFAULTS = {
    "learning_rate": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "momentum": 0.9,
}


class Target(NamedTuple):
    """An optimizer that can be built."""

    name: str  # as the caller gave it
    factory: Callable[..., Any]  # a class, or any other callable that returns an optimizer
    parameters: dict[str, inspect.Parameter]  # its arguments, without the optimized parameters
    optimizes: Optional[str]  # the name of that argument, if there is one
    options: dict[str, Any]  # arguments that the caller sets
    by_keyword: bool = True  # whether the optimized parameters can be given by keyword
    assumed: dict[str, Any] = {}  # arguments to which neither signature nor caller gives a value

    def argument(self, role: str) -> Optional[str]:
        """The name of the argument with a role; None if there is none."""
        # A string there has another meaning: epsilon="hat" of reference.Adam.
        known = {name for name, it in self.parameters.items() if not isinstance(it.default, str)}
        return next((name for name in ROLES[role] if name in {*known, *self.options}), None)

    def given(self, role: str) -> Any:
        """The value that caller or signature give to a role; None if neither does."""
        defaults = {name: it.default for name, it in self.parameters.items()}
        value = {**defaults, **self.options}.get(self.argument(role))
        return None if value is inspect.Parameter.empty else value

    def takes(self, role: str) -> bool:
        """Whether the role can be set; beta1 and beta2 also as a pair."""
        pair = "betas" if role in ("beta1", "beta2") else role
        return self.argument(role) is not None or self.argument(pair) is not None

    def values(self) -> dict[str, float]:
        """The numbers that caller or signature give, by role."""
        found = {role: self.given(role) for role in ROLES}
        betas = found.pop("betas")
        if isinstance(betas, (tuple, list)) and len(betas) == 2:
            found["beta1"], found["beta2"] = betas
        return _numbers(found)

    def filled(self) -> Target:
        """The same target, with `DEFAULTS` for the roles that have no value."""
        roles = [r for r in DEFAULTS if self.argument(r) is not None and self.given(r) is None]
        return self._replace(assumed={self.argument(role): DEFAULTS[role] for role in roles})

    def make(self, parameters, **values: Any) -> Any:
        """The framework's own optimizer of a list of parameters.

        The values are named by role, or else by the argument's name; they go before `options`.
        """
        options = {**self.assumed, **self.options}
        if self.argument("betas") is not None:
            own = {**DEFAULTS, **self.values()}
            betas = tuple(values.pop(role, own[role]) for role in ("beta1", "beta2"))
            if betas != (own["beta1"], own["beta2"]):
                options[self.argument("betas")] = betas
        for key, value in values.items():
            name = self.argument(key) if key in ROLES else key
            if name is None:
                raise UserError(f"{self.name} has no argument for {key}: {self.arguments()}")
            options[name] = value
        if not self.by_keyword:
            return self.factory(parameters, **options)
        optimized = {} if self.optimizes is None else {self.optimizes: parameters}
        return self.factory(**optimized, **options)

    def build(self, parameters, **values: Any) -> Optimizer:
        """The optimizer of a list of parameters, behind the one interface of all frameworks.

        They are parameters of the framework; of `ms_adam.reference`, also arrays. The values are as
        in `make`. Raises UserError if the target returns no optimizer.
        """
        parameters = list(parameters)
        return wrap(self.make(parameters, **values), parameters, self)

    def trial(self) -> Optimizer:
        """The optimizer of one number, made to see in which framework this target runs.

        A class of optimizers is recognised by its bases. Any other callable has to be called, with
        the parameters that it expects. Raises UserError if it cannot be made, or is no optimizer.
        """
        factory, is_class = self.factory, inspect.isclass(self.factory)
        known = [it for it in _loaded() if is_class and issubclass(factory, it.classes())]
        if not known and (self.optimizes is None or (is_class and _is_method(factory))):
            known = [NumpyOptimizer]
        if not known:
            importlib.import_module("mindspore")  # which a factory may import only when called
            if is_class and not _returns_another(factory):
                raise UserError(f"{self.name} is not an optimizer, which is {OPTIMIZERS}")
        needed = (n for n, p in self.parameters.items() if p.default is p.empty)
        missing = [name for name in needed if name not in {*self.options, *self.assumed}]
        if missing:
            raise UserError(
                f"{self.name} needs {', '.join(missing)}: add "
                + " ".join(f"--set {name}=VALUE" for name in missing)
                + f"\nits arguments: {self.arguments()}"
            )
        attempts = []
        for framework in known or _loaded():
            parameters = [framework.parameter(np.zeros(1), "float32")]
            given = f"given parameters of {framework.name} it"
            try:
                made = self.make(parameters)
            except Exception as error:
                attempts.append(f"{given} raised {one_line(error)}")
                if known:
                    raise UserError(
                        f"{self} cannot be made: {one_line(error)}\n"
                        f"its arguments: {self.arguments()}"
                    ) from error
            else:
                if known or framework.runs(made):
                    return wrap(made, parameters, self)
                attempts.append(f"{given} returned {kind(made)}")
        raise UserError(
            f"{self} returns no optimizer: {'; '.join(attempts)}\nwhat is one: {OPTIMIZERS}"
        )

    def arguments(self) -> str:
        """The signature in words, without the optimized parameters."""
        return _written(self.parameters)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return self.name + (f"({options})" if options else "")


_OPEN = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def find(name: str, options=None, folders=()) -> Target:
    """The target of a name, with the errors of `load_callable` and `describe`."""
    return describe(name, load_callable(name, folders), options)


def describe(name: str, factory: Callable, options=None) -> Target:
    """The `Target` of a class or function; raises UserError if it lacks one of the options."""
    options = dict(options or {})
    everything = _signature(factory).parameters
    open_names = {it.kind: name for name, it in everything.items() if it.kind in _OPEN}
    any_option = inspect.Parameter.VAR_KEYWORD in open_names
    parameters = {name: it for name, it in everything.items() if it.kind not in _OPEN}
    optimizes, by_keyword = _optimized(list(parameters.values())), True
    if optimizes is not None:
        by_keyword = parameters.pop(optimizes).kind is not inspect.Parameter.POSITIONAL_ONLY
    elif not parameters:  # as a function that hands on *args and **kwargs
        optimizes = open_names.get(inspect.Parameter.VAR_POSITIONAL)
        by_keyword = optimizes is None
    for key in options:
        if key == optimizes:
            raise UserError(f"{name}: '{key}' is the optimized parameters; it cannot be set")
        if key not in parameters and not any_option:
            raise UserError(
                f"{name} has no argument '{key}'{suggestion(key, parameters)}\n"
                f"its arguments: {_written(parameters)}"
            )
    return Target(name, factory, parameters, optimizes, options, by_keyword)


def _optimized(parameters):
    """The name of the argument for the optimized parameters: the first, unless it is a number.

    MindSpore's base class has it second.
    """
    names = [parameter.name for parameter in parameters]
    for name in ("params", "parameters"):
        if name in names:
            return name
    numbers = {word for words in ROLES.values() for word in words}
    if parameters and parameters[0].default is parameters[0].empty and names[0] not in numbers:
        return names[0]
    return None


def names_by_position(factory: Callable) -> list[str]:
    """The arguments of a callable that can be given by position, in their order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, it in _signature(factory).parameters.items() if it.kind in kinds]


def _signature(factory):
    """The signature of a callable as its caller sees it: of a class without self or cls."""
    try:
        if isinstance(factory, functools.partial):
            # Of the function within: inspect does not look behind MindSpore's decorators.
            within = _stand_in(_signature(factory.func))
            return inspect.signature(functools.partial(within, *factory.args, **factory.keywords))
        return _of_class(factory) if inspect.isclass(factory) else inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise UserError(f"the arguments of {factory} cannot be read: {error}") from error


def _stand_in(signature):
    def never_called():
        pass

    never_called.__signature__ = signature
    return never_called


def _of_class(factory):
    """The signature of the method that takes a class's arguments: the first that names any.

    A metaclass may have a __call__, and a class a __new__ that returns something else.
    """
    for method in (type(factory).__call__, factory.__new__):
        if inspect.isfunction(method) and not _is_open(_of_method(method)):
            return _of_method(method)
    return _of_method(_unwrapped(factory.__init__))


def _of_method(method):
    """The signature of a method without self or cls."""
    signature = inspect.signature(method)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _is_open(signature):
    """Whether a signature has *args and **kwargs only, or nothing."""
    return {parameter.kind for parameter in signature.parameters.values()} <= _OPEN


def _unwrapped(init):
    """The __init__ within MindSpore's decorators, which hide its arguments behind *args."""
    if inspect.isfunction(init) and _is_open(_of_method(init)):
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


def _returns_another(factory):
    """Whether a class may return an object that is not its instance."""
    from mindspore import nn

    # nn.Cell's own __new__ returns an instance of the class.
    constructors = {type(factory).__call__, factory.__new__} - {nn.Cell.__new__}
    return any(map(inspect.isfunction, constructors))


# --- optimizers at work ------------------------------------------------------------------------

OPTIMIZERS = (
    "an instance of mindspore.nn.Optimizer, mindspore.experimental.optim.Optimizer, "
    "torch.optim.Optimizer or mindnlp.core.optim.Optimizer, or an object with init(parameter) and "
    "step(parameter, gradient, state), as those of ms_adam.reference"
)

# The attributes that hold a quantity, one buffer for each parameter: those of nn.Adam and ours, of
# nn.AdamWeightDecay, and of torch and mindspore.experimental.optim.
STATE = {
    "moment1": ("moment1", "moments1", "exp_avg"),
    "moment2": ("moment2", "moments2", "exp_avg_sq"),
    "vhat": ("vhat", "max_exp_avg_sq"),
}


class Optimizer:
    """An optimizer of a framework, and the parameters that it updates."""

    name = ""  # of the framework

    def __init__(self, optimizer, parameters):
        self.optimizer = optimizer  # the framework's own object
        self.parameters = list(parameters)  # in the optimizer's order, as gradients and state
        self.backend = getattr(optimizer, "backend", None)  # the one that runs, of several

    @staticmethod
    def classes() -> tuple:
        """The classes of the framework's optimizers."""
        return ()

    @classmethod
    def runs(cls, made: Any) -> bool:
        """Whether an object is an optimizer of the framework."""
        return cls.name in sys.modules and isinstance(made, cls.classes())

    def step(self, gradients) -> None:
        """Makes one step; gradients are arrays, which are rounded to the parameters' dtypes."""
        raise NotImplementedError

    def weights(self) -> list:
        """Copies of the parameters in their own precision; bfloat16 as float32."""
        return [to_numpy(parameter) for parameter in self.parameters]

    def state(self) -> dict:
        """{quantity: a list of arrays}: those of `STATE` that it has, then "parameter"."""
        found = {quantity: self.buffers(quantity) for quantity in STATE}
        arrays = {q: list(map(to_numpy, buffers)) for q, buffers in found.items() if buffers}
        return {**arrays, "parameter": self.weights()}

    def state_dtypes(self) -> dict:
        """{quantity: the dtype's name for each parameter}, of the quantities of `state`."""
        found = {"parameter": self.parameters, **{q: self.buffers(q) for q in STATE}}
        return {q: list(map(dtype_name, buffers)) for q, buffers in found.items() if buffers}

    def numbers(self) -> dict[str, float]:
        """The numbers that the optimizer itself has, by role."""
        groups = getattr(self.optimizer, "param_groups", None)
        found = dict(groups[0]) if groups else {}
        for role in _READ:
            for holder in (self.optimizer, getattr(self.optimizer, "formula", None)):
                if hasattr(holder, role):
                    found.setdefault(role, getattr(holder, role))
        found.setdefault("learning_rate", found.get("lr"))
        if isinstance(found.get("betas"), (tuple, list)):
            found["beta1"], found["beta2"] = found["betas"]
        for role, value in found.items():
            if hasattr(value, "asnumpy") and value.size == 1:
                found[role] = value.asnumpy().item()
        return _numbers({role: found.get(role) for role in _READ})

    def loss_scale(self) -> float:
        """The factor that the gradients of the next step must carry."""
        scale = getattr(self.optimizer, "loss_scale", 1.0)
        return _number(getattr(scale, "scale_value", scale))

    def calls_per_update(self) -> int:
        """The number of calls whose gradients make one update."""
        return getattr(getattr(self.optimizer, "execution", None), "accumulate_steps", 1)

    def buffers(self, quantity):
        """The tensors that hold a quantity, one for each parameter; None if it has none."""


_READ = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "momentum")


class MindSporeOptimizer(Optimizer):
    """An optimizer of MindSpore, ours among them: a Cell that is called with its gradients."""

    name = "mindspore"

    def __init__(self, optimizer, parameters=()):
        del parameters  # groups and order_params may change their order
        super().__init__(optimizer, optimizer.parameters)

    @staticmethod
    def classes() -> tuple:
        from mindspore import nn
        from mindspore.experimental import optim

        return nn.Optimizer, optim.Optimizer

    @staticmethod
    def runs(made: Any) -> bool:
        if "mindspore" not in sys.modules:
            return False
        from mindspore import nn

        return isinstance(made, nn.Cell) and hasattr(made, "parameters")

    @staticmethod
    def parameter(values, dtype: str, name: str = "weight"):
        """A parameter of the framework."""
        import mindspore as ms

        return ms.Parameter(ms.Tensor(values, getattr(ms, dtype)), name=name)

    def step(self, gradients) -> None:
        from mindspore import Tensor

        self.optimizer(tuple(Tensor(g, p.dtype) for g, p in zip(gradients, self.parameters)))

    def buffers(self, quantity):
        names = (name for name in STATE[quantity] if hasattr(self.optimizer, name))
        buffers = getattr(self.optimizer, next(names, ""), None)
        layout = getattr(self.optimizer, "layout", None)
        if buffers is not None and dtype_name(buffers[0]) == "uint8":
            from ms_adam.checkpoint import core_of
            from ms_adam.narrow_state import copied

            core = core_of(self.optimizer)
            here = [i for i, own in enumerate(core.shares.owned) if own is not None]
            return [copied(codes, quantity, core, i) for i, codes in zip(here, buffers)]
        if buffers is None or layout is None:
            return buffers
        arrays = dict(zip(layout.sizes(), map(to_numpy, buffers)))
        split = layout.split(quantity, arrays)
        # A Cell around the optimizer puts its own name before those that the layout was made with.
        names = sorted(layout.names, key=len, reverse=True)
        own = (
            next(name for name in names if f".{parameter.name}".endswith(f".{name}"))
            for parameter in self.parameters
        )
        return [split[f"{quantity}.{name}"] for name in own]

    def settings(self) -> tuple:
        """Learning rates and weight decays of the coming step, a list of each by parameter."""
        from mindspore import nn

        cell = self.optimizer
        groups = getattr(cell, "param_groups", None)
        if groups is not None:
            each = [group for group in groups for _ in group["params"]]
            return tuple([_number(group[k]) for group in each] for k in ("lr", "weight_decay"))
        count = len(self.parameters)
        # nn.Optimizer returns the decay times its loss scale, which its gradients carry too; ours
        # has a loss scale of 1 there.
        scale = 1.0 if hasattr(cell, "formula") else float(cell.loss_scale)
        # Not the class's own get_lr(): that of MindCV's AdamW counts a step.
        rates = _of_each(nn.Optimizer.get_lr(cell), count)
        decays = _of_each(nn.Optimizer.get_weight_decay(cell), count)
        acts = (flag and cell.exec_weight_decay for flag in cell.decay_flags)
        return rates, [decay / scale if act else 0.0 for decay, act in zip(decays, acts)]

    def corrections(self) -> Optional[tuple]:
        """c1 = 1 - beta1^t and c2 = sqrt(1 - beta2^t) of the last step, as the optimizer has them.

        None if it is not known to have any.
        """
        from mindspore import nn

        from ms_adam.checkpoint import updates_of

        cell = self.optimizer
        formula = getattr(cell, "formula", None)
        if formula is not None:  # ours: from the count of updates
            betas = (formula.beta1, formula.beta2) if formula.bias_correction else None
            return _corrections(betas, updates_of(cell))
        if hasattr(cell, "beta1_power"):  # nn.Adam: float32 powers, multiplied up step by step
            c1, square2 = (1.0 - _number(p) for p in (cell.beta1_power, cell.beta2_power))
            return c1, math.sqrt(max(0.0, square2))
        if hasattr(cell, "state_step") and "betas" in cell.param_groups[0]:
            betas = map(_number, cell.param_groups[0]["betas"])
            return _corrections(tuple(betas), int(_number(cell.state_step)))
        return (1.0, 1.0) if isinstance(cell, nn.AdamWeightDecay) else None

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets the rate of the coming steps, or that of a schedule with a Parameter `rate`.

        It is a Parameter, so a compiled step stays valid.
        """
        from ms_adam.state import write

        rate = self.optimizer.learning_rate
        write(getattr(rate, "rate", rate), learning_rate, host=False)

    def own_state(self) -> list:
        """The Parameters of the optimizer that are not its weights."""
        weights = set(map(id, self.parameters))
        return [p for p in self.optimizer.get_parameters() if id(p) not in weights]

    def save_state(self) -> list:
        """Copies of `own_state`, for `restore_state`."""
        return list(map(to_numpy, self.own_state()))

    def restore_state(self, saved: list) -> None:
        """Writes into the state's own memory, which `set_data` replaces after a step."""
        from ms_adam.state import write

        for parameter, values in zip(self.own_state(), saved):
            write(parameter, values, host=False)

    def state_bytes(self) -> int:
        """The size of the state."""
        return sum(parameter.nbytes for parameter in self.own_state())


class TorchOptimizer(Optimizer):
    """torch.optim.Optimizer: reads .grad of its parameters."""

    name = "torch"

    @staticmethod
    def classes() -> tuple:
        import torch

        return (torch.optim.Optimizer,)

    @staticmethod
    def parameter(values, dtype: str):
        import torch

        return torch.nn.Parameter(torch.tensor(values, dtype=getattr(torch, dtype)))

    def step(self, gradients) -> None:
        import torch

        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)
        self.optimizer.step()

    def buffers(self, quantity):
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters]
        for name in STATE[quantity]:
            if all(name in state for state in states):
                return [state[name] for state in states]
        return None

    def state_bytes(self) -> int:
        """The size of the state."""
        every = (value for state in self.optimizer.state.values() for value in state.values())
        # Tables are one tensor for all parameters in bitsandbytes, and a copy for each in torchao.
        tensors = {id(part): part for value in every for part in _plain_tensors(value)}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _plain_tensors(value):
    """The tensors in memory that a value is or is made of, as a quantized one of torchao is."""
    if hasattr(value, "__tensor_flatten__"):
        return [getattr(value, name) for name in value.__tensor_flatten__()[0]]
    return [value] if hasattr(value, "element_size") else []


class MindNLPOptimizer(TorchOptimizer):
    """mindnlp.core.optim.Optimizer: as torch's, of MindSpore's parameters."""

    name = "mindspore"

    @staticmethod
    def classes() -> tuple:
        optim = sys.modules.get("mindnlp.core.optim")
        return () if optim is None else (optim.Optimizer,)

    parameter = staticmethod(MindSporeOptimizer.parameter)

    def step(self, gradients) -> None:
        from mindspore import Tensor

        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = Tensor(gradient, parameter.dtype)
        self.optimizer.step()


class NumpyOptimizer(Optimizer):
    """A method of `ms_adam.reference`, or an object like it: float64, never rounded.

    As in `nn.Optimizer`, weight decay does not act on parameters with 'beta' or 'gamma' in their
    names.

    Args:
        optimizer: Has init(parameter) and step(parameter, gradient, state).
        parameters: Arrays or tensors with the first weights; they are copied, and stay unchanged.
        learning_rates: The rate of each step; the last one stays, as in `nn.Optimizer`.
        max_grad_norm: The global norm to which gradients, without their loss scale, are clipped.
    """

    name = "numpy"

    def __init__(self, optimizer, parameters, learning_rates=None, max_grad_norm=None):
        super().__init__(optimizer, parameters)
        self._rates, self.max_grad_norm, self._steps = learning_rates, max_grad_norm, 0
        undecayed = optimizer
        if getattr(optimizer, "weight_decay", 0.0) and dataclasses.is_dataclass(optimizer):
            undecayed = dataclasses.replace(optimizer, weight_decay=0.0)
        names = (getattr(parameter, "name", "") for parameter in self.parameters)
        bare = ("beta" in name or "gamma" in name for name in names)
        self.methods = [undecayed if each else optimizer for each in bare]
        self._weights = [np.array(to_numpy(p), np.float64) for p in self.parameters]
        self._states = [m.init(w) for m, w in zip(self.methods, self._weights)]

    @staticmethod
    def runs(made: Any) -> bool:
        return not inspect.isclass(made) and _is_method(made)

    @staticmethod
    def parameter(values, dtype: str):
        del dtype
        return np.array(values, np.float64)

    def step(self, gradients) -> None:
        from ms_adam import reference

        gradients = [np.asarray(gradient, np.float64) for gradient in gradients]
        if self.max_grad_norm is not None:
            scale = getattr(self.optimizer, "loss_scale", 1.0)
            gradients = reference.clip_by_global_norm(gradients, self.max_grad_norm * scale)
        rate = {} if self._rates is None else {"learning_rate": self._rate()}
        self._steps += 1
        for i, (method, gradient) in enumerate(zip(self.methods, gradients)):
            with np.errstate(all="ignore"):
                self._weights[i], self._states[i] = method.step(
                    self._weights[i], gradient, self._states[i], **rate
                )

    def weights(self) -> list:
        return [np.array(weight, np.float64) for weight in self._weights]

    def state_dtypes(self) -> dict:
        return {quantity: ["float64"] * len(arrays) for quantity, arrays in self.state().items()}

    def buffers(self, quantity):
        found = [getattr(state, quantity, None) for state in self._states]
        return None if any(array is None for array in found) else found

    def settings(self) -> tuple:
        """As those of `MindSporeOptimizer`."""
        decays = [float(getattr(method, "weight_decay", 0.0)) for method in self.methods]
        return [self._rate()] * len(decays), decays

    def corrections(self) -> Optional[tuple]:
        """As those of `MindSporeOptimizer`."""
        from ms_adam import reference

        method = self.optimizer
        if not isinstance(method, reference.Adam):
            return None
        betas = (method.beta1, method.beta2) if method.bias_correction else None
        return _corrections(betas, self._steps)

    def _rate(self):
        if self._rates is None:
            return float(self.optimizer.learning_rate)
        return self._rates[min(self._steps, len(self._rates) - 1)]


_FRAMEWORKS = (MindSporeOptimizer, TorchOptimizer, MindNLPOptimizer, NumpyOptimizer)


def wrap(made: Any, parameters=(), name: Any = "it") -> Optimizer:
    """The `Optimizer` around an optimizer that is at hand; raises UserError if it is none."""
    for framework in _FRAMEWORKS:
        if framework.runs(made):
            return framework(made, parameters)
    raise UserError(f"{name} returned {kind(made)}, not an optimizer; what is one: {OPTIMIZERS}")


@contextlib.contextmanager
def mindspore_context(**values: Any):
    """Sets values of ``mindspore.set_context`` and puts them back: they hold for the process."""
    import mindspore as ms

    before = {name: ms.get_context(name) for name in values}
    ms.set_context(**values)
    try:
        yield
    finally:
        ms.set_context(**before)


def to_numpy(tensor: Any) -> np.ndarray:
    """A copy of a tensor or array (asnumpy() may share memory); bfloat16 as float32, exactly."""
    if isinstance(tensor, np.ndarray):
        return np.array(tensor)
    if hasattr(tensor, "asnumpy"):
        if dtype_name(tensor) == "bfloat16":
            import mindspore as ms

            tensor = tensor.astype(ms.float32)
        return np.array(tensor.asnumpy())
    if hasattr(tensor, "detach"):
        tensor = tensor.detach()
        return np.array((tensor.float() if dtype_name(tensor) == "bfloat16" else tensor).numpy())
    return np.array(tensor)


def dtype_name(tensor: Any) -> str:
    """The name of a dtype: "float32" for MindSpore's Float32, torch.float32 and NumPy's."""
    return str(tensor.dtype).lower().rsplit(".", maxsplit=1)[-1]


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array rounded to the named dtype of MindSpore; bfloat16 as float32."""
    import mindspore as ms

    return to_numpy(ms.Tensor(array, getattr(ms, dtype)))


def _loaded():
    """The frameworks that are imported, of those whose optimizers have a class in common."""
    return [it for it in _FRAMEWORKS if it.name in sys.modules and it.classes()]


def _is_method(thing):
    return callable(getattr(thing, "init", None)) and callable(getattr(thing, "step", None))


def _corrections(betas, t):
    """(c1, c2) after t steps; of no betas, without correction, (1, 1)."""
    from ms_adam.reference.correction import bias_correction

    if betas is None:
        return 1.0, 1.0
    return bias_correction(betas[0], t), math.sqrt(bias_correction(betas[1], t))


def _number(value):
    return float(value.asnumpy().reshape(-1)[0]) if hasattr(value, "asnumpy") else float(value)


def _numbers(values):
    real = {k: v for k, v in values.items() if isinstance(v, Real) and not isinstance(v, bool)}
    return {key: float(value) for key, value in real.items()}


def _of_each(value, count):
    """One number for each parameter, from one for all or a sequence."""
    return list(map(_number, value if isinstance(value, (tuple, list)) else [value] * count))
