"""Adam and AdamW behind the interface of `mindspore.mint.optim`: live groups, schedulers by hand.

Each is an optimizer of `mindspore.experimental.optim`, so its schedulers take it. It holds an
optimizer of `ms_adam.optimizer`, its core, that owns the state and makes the step. Groups share
their numbers with the core. Each learning rate and weight decay is a Parameter that every step
reads, a compiled one too. So are betas, epsilon and `maximize` where the backend reads its formulas
(`capabilities.reads_formulas`). With another backend, or another group, the core is made anew, and
takes over the state.
"""

import functools
import inspect
import itertools
from collections.abc import MutableMapping
from typing import Any, Dict, List, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, log

from ms_adam.compat import RELEASE

try:
    from mindspore.experimental import optim
except ImportError:
    raise ImportError(
        f"ms_adam.mint needs mindspore.experimental.optim, which {RELEASE} lacks; "
        "2.7 and later have it."
    ) from None

from ms_adam import checkpoint, state
from ms_adam import checkpoint_forms as forms
from ms_adam.base import HOOKS
from ms_adam.gradients import CheckGradients
from ms_adam.groups import formula_fields
from ms_adam.optimizer import Adam as NNAdam
from ms_adam.options import check_bool, checked_params, refuse_unknown

__all__ = ["Adam", "AdamW"]

_FORMULA = ("betas", "eps", "maximize")
_CENTRALIZATION = "grad_centralization"
_OF_CORE = (
    "backend",
    "launch",
    "moment1",
    "moment2",
    "vhat",
    "global_step",
    "update_count",
    "grad_norm",
    "skipped",
    "accumulated",
    "ema",
    "master_weights",
    "loss_scale",
    "flush",
)
_NAMED_OTHERWISE = ("learning_rate", "beta1", "beta2", "use_amsgrad")
_TORCH_ENTRIES = {"moment1": "exp_avg", "moment2": "exp_avg_sq", "vhat": "max_exp_avg_sq"}
_numbers = itertools.count()


class Group(dict):
    """A parameter group. An item that is assigned acts on the next step."""

    def __init__(self, items, change):
        super().__init__(items)
        self.change = change

    def __setitem__(self, key, value):
        super().__setitem__(key, self.change(self, key, value))

    # Those of a dict do not call __setitem__.
    update, setdefault = MutableMapping.update, MutableMapping.setdefault

    def __ior__(self, other):  # type: ignore[misc]  # of another type than dict.__or__
        self.update(other)
        return self

    def __reduce__(self):
        # A copy is a dict, as that of `dict.copy` is: it changes no optimizer.
        return dict, (dict(self),)


class _NoticeCompilation(CheckGradients):
    """Checks gradients, and notices that a step of the user is compiled with the optimizer in it.

    Such a step keeps the constants that it was compiled with.
    """

    within_call, is_part_of_a_graph = False, False

    def check(self, shapes, dtypes):
        self.is_part_of_a_graph |= not self.within_call
        return super().check(shapes, dtypes)


class _Core(NNAdam):
    """The optimizer that owns the state and makes the step.

    Args:
        groups: dicts of "params", "lr" (a Parameter), "weight_decay" and what groups of
            `ms_adam.Adam` may have.
        begun: {id of a parameter: updates made before it joined}.
        numbers: arguments of `ms_adam.Adam` that have other names, or defaults, here.
        options: the others.

    Attributes:
        numbers: (rate, weight decay, formula) of each group of parameters that share them, two
            Parameters and a `Formula`.
    """

    state_step_before: int

    def __init__(self, groups, begun, numbers, options):
        self.begun = begun
        super().__init__(groups, **numbers, **options)
        self.check = _NoticeCompilation(self.check.names, self.check.shapes, self.check.class_name)
        if self.capabilities.reads_formulas:
            _live(self.update, "formulas")

    def _split_groups(self, options):
        given = self.init_params["params"]
        rates = [group["lr"] for group in given for _ in group["params"]]
        self.learning_rate = ParameterTuple(rates)  # in the place of the copies of nn.Optimizer
        self.decay_flags, self.exec_weight_decay = (True,) * len(rates), True
        options = {
            id(parameter): {**options[id(parameter)], "begun": self.begun.get(id(parameter), 0)}
            for parameter in self.parameters
        }
        groups, values = super()._split_groups(options)
        self.numbers = [
            (rate.value, _live(decay, "value"), formula)
            for rate, decay, formula in zip(
                values.learning_rates, values.weight_decays, groups.formulas
            )
        ]
        return groups, values

    def _step(self, gradients):
        self.check.within_call = True
        try:
            return super()._step(gradients)
        finally:
            self.check.within_call = False

    def set_weight_decay(self, rate, value):
        """Sets the weight decay of the group with a rate."""
        for own_rate, decay, _ in self.numbers:
            if own_rate is rate:
                state.write(decay, value, False)

    def set_formula(self, rate, fields):
        """Sets fields of the formula of the group with a rate."""
        self.numbers = [
            (own, decay, formula._replace(**fields) if own is rate else formula)
            for own, decay, formula in self.numbers
        ]
        formulas = [self.formula, *(formula for _, _, formula in self.numbers)]
        state.write(self.update.formulas, self.update.rows(formulas, self.execution), False)


@functools.lru_cache(maxsize=None)
def _core_class(class_name, decoupled, state_step_before):
    attributes = {
        "decoupled_weight_decay": decoupled,
        "state_step_before": state_step_before,
        "__module__": __name__,
    }
    return type(class_name, (_Core,), attributes)  # of the user's name, for messages


def _live(cell, name):
    """Puts a Parameter in the place of a constant tensor of a cell; returns it.

    It is no state: hidden from `get_parameters`, it is in no checkpoint. Its name must be unique
    in a graph.
    """
    parameter = Parameter(
        getattr(cell, name), name=f"ms_adam_{name}_{next(_numbers)}", requires_grad=False
    )
    object.__setattr__(cell, name, parameter)
    return parameter


def _plain(value):
    """Returns a tensor of one number as that number, as short as float32 allows."""
    if hasattr(value, "item"):
        value = np.asarray(value.asnumpy() if hasattr(value, "asnumpy") else value)
        return float(str(value.reshape(())))
    return value


def _make_again(make, groups, arguments, state_dict):
    """Returns an optimizer that was pickled."""
    optimizer = make(groups, **arguments)
    optimizer.load_state_dict(state_dict)
    return optimizer


class _Optimizer(optim.Optimizer):
    """The base of both; see `Adam`."""

    param_groups: List[Any]
    group_start_id: List[int]
    lrs: List[Parameter]
    parameters: Any
    decoupled_weight_decay = False
    state_step_before = 0  # the first: the state_step of the mint optimizer of that name

    def __init__(self, params, defaults, options):
        self.options, self.begun, self.core = options, {}, None
        self.class_name = type(self).__name__
        theirs = inspect.signature(NNAdam.__init__).parameters
        own = {*theirs, "amsgrad"} - {"self", "unknown", *_NAMED_OTHERWISE}
        refuse_unknown(self.class_name, set(options) - set(theirs), own)
        params = checked_params(self.class_name, params)
        super().__init__(params, {key: self._checked(key, defaults[key]) for key in defaults})
        self._make_core()

    def __getattr__(self, name):
        if name in _OF_CORE:
            return getattr(self.core, name)
        return super().__getattr__(name)

    def __call__(self, gradients):
        overrides = type(self).construct is not _Optimizer.construct
        if overrides or any(getattr(self, hooks, None) for hooks in HOOKS):
            return super().__call__(gradients)
        return self.core(gradients)

    def construct(self, gradients):
        return self.core(gradients)

    def step(self, gradients: Any = None) -> Tensor:
        """Makes a step; the same as calling the optimizer.

        Args:
            gradients: as in a call. None: the `grad` of each parameter, where trainers in the style
                of torch leave it.
        """
        if gradients is None:
            gradients = [getattr(parameter, "grad", None) for parameter in self.parameters]
        return self(gradients)

    # ---- groups ---------------------------------------------------------------------------------

    def add_param_group(self, param_group: Dict[str, Any]) -> None:
        """Adds a group of parameters, also after steps.

        The bias correction of its parameters counts from here on, as in torch; their averages begin
        at their weights. A step that was compiled before goes on without the group, and a warning
        says so.

        Args:
            param_group: "params", and any of "lr", "betas", "eps", "weight_decay", "maximize".

        Raises:
            TypeError: If it is not a dict, or a value is of the wrong type.
            ValueError: If a value is out of range, "amsgrad" is not that of the optimizer, or a
                parameter is in a group already.
        """
        if not isinstance(param_group, dict):
            raise TypeError(
                f"For '{self.class_name}', a parameter group must be a dict, but got "
                f"{type(param_group).__name__}."
            )
        own = {key: param_group.get(key, self.defaults[key]) for key in self.defaults}
        own = {key: self._checked(key, value) for key, value in own.items()}
        lists = self.lrs[:], self.param_groups[:], self.group_start_id[:]
        before = self.parameters, self.begun, *lists
        try:
            super().add_param_group({**param_group, **own})
            self.param_groups[-1] = group = Group(self.param_groups[-1], self._change)
            if self.core is None:  # within __init__
                return
            self.parameters = ParameterTuple(tuple(self.parameters))
            updates = checkpoint.updates_of(self.core)
            if updates:
                late = {id(parameter): updates for parameter in group["params"]}
                self.begun = {**self.begun, **late}
            in_a_graph = self.core.check.is_part_of_a_graph
            self._make_core()
        except Exception:
            (self.parameters, self.begun, self.lrs, self.param_groups, self.group_start_id) = before
            raise
        if in_a_graph:
            log.warning(
                f"For '{self.class_name}', a step that was compiled before add_param_group() does "
                "not update the new group: compile the step again."
            )

    def _checked(self, key, value):
        """Returns a value of a group, checked, as a step takes it."""
        begin = f"For '{self.class_name}', the argument '{key}' must be "
        if key in ("lr", "weight_decay"):
            if isinstance(value, Tensor) and value.size == 1:
                value = float(value.asnumpy().reshape(()))
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
                raise TypeError(f"{begin}a number, but got {value!r}.")
            if not 0.0 <= value < np.inf:
                raise ValueError(f"{begin}finite and not negative, but got {value!r}.")
            return float(value)
        if key == "betas":
            value = tuple(value) if isinstance(value, list) else value
        if key in _FORMULA:
            formula_fields(self.class_name, {key: value}, infinity_norm=False)
        if key == "amsgrad":
            check_bool(self.class_name, key, value)
            if hasattr(self, "defaults") and value != self.defaults["amsgrad"]:
                raise ValueError(f"{begin}the same in all groups and steps, but got {value!r}.")
        return value

    def _change(self, group, key, value):
        """Lets the next step take a value that is assigned to an item of a group.

        Returns:
            The value to keep there.

        Raises:
            TypeError, ValueError: As for an argument of that name.
            RuntimeError: If a step that is compiled already would not follow.
        """
        if key == "params":
            raise ValueError(
                f"For '{self.class_name}', the parameters of a group cannot be changed; "
                "add_param_group() adds others."
            )
        if key == _CENTRALIZATION and value != group.get(key, False):
            raise ValueError(f"For '{self.class_name}', '{key}' of a group cannot be changed.")
        if key not in self.defaults:  # "initial_lr", or the user's own
            return value
        value, rate = self._checked(key, value), group["lr"]
        if key == "lr":
            state.write(rate, value, False)
            return rate
        if key == "weight_decay":
            self.core.set_weight_decay(rate, value)
        elif key in _FORMULA and value != group[key]:
            fields = formula_fields(self.class_name, {key: value}, infinity_norm=False)
            if self.core.capabilities.reads_formulas:
                self.core.set_formula(rate, fields)
            else:
                self._make_core_of_other_numbers(group, key, value)
        return value

    def _make_core_of_other_numbers(self, group, key, value):
        self._refuse_after_compilation(f"another '{key}'")
        old = group[key]
        dict.__setitem__(group, key, value)
        try:
            self._make_core()
        except Exception:
            dict.__setitem__(group, key, old)
            raise

    # ---- state ----------------------------------------------------------------------------------

    def state_dict(self) -> Dict[str, Any]:
        """Returns the state and the groups in the layout of torch: by the index of the parameter.

        Returns:
            "state": {index: {"step", "exp_avg", "exp_avg_sq"}}, with "max_exp_avg_sq", "ema",
            "master_weight" and "accumulator" where there are such; copies, Tensors. "param_groups":
            a dict for each group, with numbers, and the indices of its parameters in "params". The
            first has the numbers of the tail of a step, if there are such, in "ms_adam".
        """
        whole = {name: it.asnumpy() for name, it in checkpoint.gather_state(self.core).items()}
        updates, entries = checkpoint.updates_of(self.core), {}
        for i, (name, parameter) in enumerate(zip(self.core.check.names, self.parameters)):
            count = updates - self.begun.get(id(parameter), 0)
            entries[i] = {"step": Tensor(count, ms.float32)}
            for entry in state.ENTRIES:
                if f"{entry.name}.{name}" in whole:
                    value = Tensor(whole.pop(f"{entry.name}.{name}"))
                    entries[i][_TORCH_ENTRIES.get(entry.name, entry.name)] = value
        carried = [names[0] for names, _ in checkpoint.carried(self.core)]
        numbers = {name: whole[name].reshape(-1)[0].item() for name in ("global_step", *carried)}
        groups = []
        for begin, group in zip(self.group_start_id, self.param_groups):
            items = {key: _plain(value) for key, value in group.items() if key != "params"}
            items["decoupled_weight_decay"] = self.decoupled_weight_decay
            items["params"] = list(range(begin, begin + len(group["params"])))
            groups.append(items)
        if numbers != {"global_step": updates}:
            groups[0]["ms_adam"] = numbers
        return {"state": entries, "param_groups": groups}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Sets the state and the groups from `state_dict`, of ours or of torch.

        As in torch, the parameters there are those here in the order of the groups, and the
        numbers of the groups replace those here. A torch optimizer takes ours with tensors of torch
        in the place of Tensors; docs/migrate.md shows both ways.

        Args:
            state_dict: of `state_dict`, or of `torch.optim.Adam` or `AdamW` with tensors on the
                CPU, or arrays. It is not changed.

        Raises:
            ValueError: If groups or entries differ from those here, or a value is out of range.
            TypeError: If a value is of the wrong type.
            RuntimeError: If a step that is compiled already would not follow.

        After any of these errors the optimizer is unchanged.
        """
        if not isinstance(state_dict, dict) or not forms.is_torch(state_dict):
            raise ValueError(
                f"For '{self.class_name}', a state_dict has the keys 'state' and 'param_groups'; "
                "load_state() reads other forms."
            )
        groups, states = state_dict["param_groups"], state_dict["state"]
        sizes = [[len(it["params"]) for it in side] for side in (groups, self.param_groups)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"For '{self.class_name}', the groups of the state_dict have {sizes[0]} "
                f"parameters, and those of the optimizer {sizes[1]}."
            )
        changes = [self._changes(group) for group in groups]
        named, counts = self._named_entries(groups, states)
        updates = max(counts)
        named.update(groups[0].get("ms_adam", {"global_step": updates}), update_count=updates)
        named = {name: np.asarray(value) for name, value in named.items()}
        begun = {
            id(parameter): updates - count
            for parameter, count in zip(self.parameters, counts)
            if count < updates
        }
        if not self.core.capabilities.reads_formulas and any(
            new.get(key, group[key]) != group[key]
            for group, new in zip(self.param_groups, changes)
            for key in _FORMULA
        ):
            self._refuse_after_compilation("load_state_dict() with other betas, eps or maximize")
        if begun != self.begun:
            self._refuse_after_compilation("load_state_dict() with groups that joined otherwise")
        checkpoint.load_state(self.core, named)
        for group, new in zip(self.param_groups, changes):
            group.update(new)
        self._set_begun(begun)

    def _changes(self, group):
        """Returns what a group of a state_dict sets, checked."""
        decoupled = group.get("decoupled_weight_decay", self.decoupled_weight_decay)
        if decoupled != self.decoupled_weight_decay:
            raise ValueError(
                f"For '{self.class_name}', decoupled_weight_decay is "
                f"{self.decoupled_weight_decay}, but the state_dict has {decoupled}."
            )
        skipped = ("params", "ms_adam", "decoupled_weight_decay")
        return {
            key: self._checked(key, _plain(value))
            for key, value in group.items()
            if key not in skipped
        }

    def _named_entries(self, groups, states):
        """Returns the entries of a state_dict by name, and the count of each parameter."""
        ours_of = {theirs: ours for ours, theirs in _TORCH_ENTRIES.items()}
        zeros = ("exp_avg", "exp_avg_sq") + ("max_exp_avg_sq",) * self.defaults["amsgrad"]
        named, counts = {}, []
        indices = [index for group in groups for index in group["params"]]
        for index, name, parameter in zip(indices, self.core.check.names, self.parameters):
            own = dict(states.get(index, {}))
            counts.append(int(forms.array(own.pop("step", 0), f"step of {index}")))
            if not own:  # torch makes the entries in the first step
                wide = state.dtype_name(state.compute_dtype(parameter.dtype))
                own = {key: np.zeros(parameter.shape, wide) for key in zeros}
            for key, value in own.items():
                if key not in ours_of and key not in {entry.name for entry in state.ENTRIES}:
                    raise ValueError(
                        f"For '{self.class_name}', the state_dict has {key!r} of {index} ({name}), "
                        "which is no entry of Adam."
                    )
                named[f"{ours_of.get(key, key)}.{name}"] = forms.array(value, f"{key} of {index}")
        return named, counts

    def to_mint(self) -> Dict[str, Parameter]:
        """Returns weights and state under the names of the optimizer of `mindspore.mint.optim`.

        For `mindspore.save_checkpoint` and `load_param_into_net`; `load_state` reads them back.
        All parameters have one count there.

        Returns:
            The weights; "exp_avg.<parameter>" and so on; "state_step", which is 0 before the first
            step of `Adam`, and -1 before that of `AdamW`.
        """
        whole, found = checkpoint.gather_state(self.core), {}
        for name, parameter in zip(self.core.check.names, self.parameters):
            found[name] = parameter
            for ours, theirs in _TORCH_ENTRIES.items():
                if f"{ours}.{name}" in whole:
                    found[f"{theirs}.{name}"] = whole[f"{ours}.{name}"]
        step = checkpoint.updates_of(self.core) + self.state_step_before
        found["state_step"] = Parameter(Tensor([step], ms.float32), "state_step")
        return found

    def count_alike(self) -> bool:
        """Counts the updates of all parameters from the first one, for a load of one count.

        Returns:
            bool, whether the core is another one now.
        """
        if self.begun:
            self._refuse_after_compilation("load_state() after add_param_group()")
        return self._set_begun({})

    def __reduce__(self):
        # MindSpore's operators cannot be copied or pickled: the optimizer is made again.
        groups = [
            {key: value if key == "params" else _plain(value) for key, value in group.items()}
            for group in self.param_groups
        ]
        arguments = {**self.defaults, **self.options}
        return _make_again, (type(self), groups, arguments, self.state_dict())

    # ---- the core -------------------------------------------------------------------------------

    def _refuse_after_compilation(self, what):
        """Raises RuntimeError if a compiled step would go on without a change."""
        if self.core.check.is_part_of_a_graph:
            raise RuntimeError(
                f"For '{self.class_name}' with backend='{self.backend}', {what} is a change that a "
                "compiled step with the optimizer in it would not see. Do it before that is "
                "compiled, or call the optimizer from Python."
            )

    def _set_begun(self, begun):
        changed = begun != self.begun
        if changed:
            self.begun = begun
            self._make_core()
        return changed

    def _make_core(self):
        """Makes the core of the groups as they are; it takes over the state of the last one."""
        old = self.core
        if old is not None and old.is_averaged:
            raise RuntimeError(f"For '{self.class_name}', groups cannot change within averaged().")
        keys = ("lr", "weight_decay", *_FORMULA)
        groups = [
            {
                "params": list(group["params"]),
                **{key: group[key] for key in (*keys, _CENTRALIZATION) if key in group},
            }
            for group in self.param_groups
        ]
        numbers = {key: self.defaults[key] for key in keys}
        numbers["use_amsgrad"] = self.defaults["amsgrad"]
        make = _core_class(self.class_name, self.decoupled_weight_decay, self.state_step_before)
        core = make(groups, self.begun, numbers, self.options)
        if old is not None:
            entries = checkpoint.gather_state(core)
            names = dict(zip(old.check.names, core.check.names))  # a Cell may have renamed them
            for name, value in checkpoint.gather_state(old).items():
                entry, _, parameter = name.partition(".")
                entries[f"{entry}.{names[parameter]}" if parameter in names else name] = value
            late = slice(len(names), None)
            for name, parameter in zip(core.check.names[late], core.parameters[late]):
                if old.ema is not None:
                    wide = state.compute_dtype(parameter.dtype)
                    entries[f"ema.{name}"] = parameter.astype(wide)
            checkpoint.load_state(core, entries)
        self.core = core


class Adam(_Optimizer):
    r"""Adam with the interface of `mindspore.mint.optim.Adam` and of `torch.optim.Adam`.

    The update is that of `ms_adam.Adam`, with the same backends and the same bits. Weight decay is
    added to the gradient (L2), of every parameter.

    Every scheduler of `mindspore.experimental.optim.lr_scheduler` drives it. A value that is
    assigned to ``param_groups[i]["lr"]``, "betas", "eps", "weight_decay" or "maximize" acts on the
    next step, in graph mode, in PyNative mode and in a step that is compiled already, and compiles
    nothing. Only backends "primitive" and "composite" make a new graph for betas, eps and maximize,
    and refuse to change them once a compiled step contains the optimizer.

    .. warning::
        `mindspore.experimental.optim.Adam` documents Algorithm 1 and computes epsilon-hat, and
        ignores `amsgrad`. `epsilon_hat=True` gives its numbers. `mindspore.mint.optim` runs on
        Ascend only.

    Args:
        params (Union[list[Parameter], list[dict]]): Parameters, or groups of them with the keys
            "params", "lr", "betas", "eps", "weight_decay" and "maximize". The dicts are copied:
            assign to `param_groups`.
        lr (Union[float, int, Tensor], optional): The learning rate, kept in float32. Default:
            ``1e-3`` .
        betas (tuple[float], optional): Decay rates of the moments, in [0, 1). Default:
            ``(0.9, 0.999)`` .
        eps (float, optional): Greater than 0. Default: ``1e-8`` .
        weight_decay (float, optional): Default: ``0.0`` .
        amsgrad (bool, optional): Whether the largest second moment so far takes the place of the
            second moment; the same in all groups. Default: ``False`` .

    Keyword Args:
        maximize (bool): Go up the gradient. Default: ``False`` .
        options: `use_nesterov`, `loss_scale`, `epsilon_hat`, `bias_correction`, `skip_nonfinite`,
            `accumulate_steps`, `max_grad_norm`, `ema_decay`, `ema_debias`, `state_dtype`,
            `master_weights`,
            `use_lazy`, `use_offload`, `use_locking`, `backend`, `flat_state` and `shard_state` of
            `ms_adam.Adam`.

    Inputs and outputs are those of `ms_adam.Adam`.

    Attributes:
        param_groups (list[dict]): The groups. "lr" is a float32 Parameter.
        lrs (list[Parameter]): The same learning rates.
        parameters (ParameterTuple): The parameters of all groups, in the order of the gradients.
        backend, launch, moment1, moment2, vhat, global_step, update_count, grad_norm, skipped,
            accumulated, ema, flush: those of `ms_adam.Adam`.

    Raises:
        ImportError: When `ms_adam.mint` is first used, if MindSpore has no
            `mindspore.experimental.optim` (2.0.0).
        KeyError: If an unknown keyword is given.
        TypeError: If a value is of the wrong type; ValueError: if it is out of range. Also when it
            is assigned to an item of a group.

    `load_state`, `convert_checkpoint`, `gather_state` and `averaged` of `ms_adam` take it. A
    checkpoint of `mindspore.save_checkpoint` has one count of updates for all parameters;
    `state_dict` has one for each, which matters soon after `add_param_group`.

    Supported Platforms:
        Those of `ms_adam.Adam`.

    Example:
        >>> import mindspore as ms
        >>> from mindspore import nn
        >>> from mindspore.experimental.optim import lr_scheduler
        >>> import ms_adam
        >>> network = nn.Dense(4, 2)
        >>> optimizer = ms_adam.mint.AdamW(network.trainable_params(), lr=1e-2)
        >>> scheduler = lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        >>> loss = lambda x: network(x).square().mean()
        >>> gradient = ms.value_and_grad(loss, None, optimizer.parameters)
        >>> for _ in range(2):
        ...     before, gradients = gradient(ms.ops.ones((3, 4)))
        ...     done = optimizer(gradients)
        ...     done = scheduler.step()
        >>> print(float(optimizer.param_groups[0]["lr"]))
        0.0024999999441206455
        >>> optimizer.param_groups[0]["weight_decay"] = 0.1
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults, options)


class AdamW(Adam):
    r"""Adam with decoupled weight decay, with the interface of `mindspore.mint.optim.AdamW`.

    The update is that of `ms_adam.AdamW`: torch.optim.AdamW's, with decay of every parameter. Its
    arguments are those of `ms_adam.mint.Adam`; `weight_decay` defaults to ``1e-2`` .

    Example:
        >>> from mindspore import nn
        >>> import ms_adam
        >>> optimizer = ms_adam.mint.AdamW(nn.Dense(4, 2).trainable_params(), max_grad_norm=1.0)
    """

    decoupled_weight_decay = True
    state_step_before = -1

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ):
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, **options
        )
