"""Parameter groups: learning rate, weight decay, formula and switches of each parameter.

`nn.Optimizer` keeps one learning rate and one weight decay for each parameter, though all
parameters of a group share them. Here parameters with the same rate, decay and formula are one
group, computed once a step.
"""

import math
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.optim.optimizer import _ConvertToCell, _IteratorLearningRate

from ms_adam.compat import placed
from ms_adam.options import Formula, check_bool, check_decay_rate, check_eps, unpack_betas
from ms_adam.state import Owned, WeightKind, in_row

OPTIONS = ("betas", "eps", "maximize")  # of a group, besides those of `nn.Optimizer`


class Groups(NamedTuple):
    """Which group each parameter is in, and its switches.

    Attributes:
        index: the group of each parameter.
        formulas: the `Formula` of each group.
        decayed: for each parameter, whether weight decay acts on it.
        centralized: for each parameter, whether its gradient is centralized.
        owned: for each parameter, which elements this process updates, (begin, size) with `begin`
            and `size` at rows; None if it updates none. All of them, except with `shard_state`.
    """

    index: Tuple[int, ...]  # type: ignore[assignment]  # hides tuple.index
    formulas: Tuple[Formula, ...]
    decayed: Tuple[bool, ...]
    centralized: Tuple[bool, ...]
    owned: Tuple[Owned, ...]

    def rows(self, kinds: Sequence[WeightKind]) -> List[List[int]]:
        """Returns the places of the parameters, those together that are updated alike.

        They share the dtypes of weight and parameter, group, weight decay and centralization. Those
        that this process does not update come last.
        """
        alike: Dict[tuple, List[int]] = {}
        for i, kind in enumerate(kinds):
            dtypes = str(kind.dtype), str(kind.parameter_dtype)
            switches = self.index[i], self.decayed[i], self.centralized[i]
            key = (self.owned[i] is None, dtypes, switches)
            alike.setdefault(key, []).append(i)
        shapes = [kind.shape for kind in kinds]
        of_owned = sorted(alike.items(), key=lambda item: item[0][0])
        return [in_row(places, shapes) for _, places in of_owned]


class GroupValues(nn.Cell):
    """The learning rate and the weight decay of each group in one step, and `ema_decay`.

    Args:
        learning_rates: one for each group, each a Parameter or a schedule.
        weight_decays: one for each group, each a Tensor or a Cell.
        ema_decays: (), or the schedule of `ema_decay`.

    Inputs:
        done: int32 tensor of shape (1,), the number of steps already made.
        fixed: (), or the tensors of `moving`, in the place of the fixed learning rates.

    Outputs:
        Three tuples of float32 tensors of shape (): one for each group; likewise; as `ema_decays`.
    """

    def __init__(self, learning_rates, weight_decays, ema_decays):
        super().__init__(auto_prefix=False)
        # All are Cells: graphs of MindSpore 2.7 cannot hold a list of cells and tensors.
        self.learning_rates = _values(learning_rates)
        self.weight_decays = _values(weight_decays)
        self.ema_decays = _values(ema_decays)
        self.is_fixed = tuple(isinstance(rate, Fixed) for rate in self.learning_rates)

    def construct(self, done, fixed):
        learning_rates, weight_decays, ema_decays, i = (), (), (), 0
        for rate in self.learning_rates:
            if len(fixed) > 0 and self.is_fixed[i]:
                learning_rates += (fixed[i],)
            else:
                learning_rates += (rate(done),)
            i = i + 1
        for decay in self.weight_decays:
            weight_decays += (decay(done),)
        for decay in self.ema_decays:
            ema_decays += (decay(done),)
        return learning_rates, weight_decays, ema_decays

    def fixed_rates(self) -> List[Parameter]:
        """Returns the Parameters of the fixed learning rates."""
        return [rate.value for rate in self.learning_rates if isinstance(rate, Fixed)]

    def moving(self) -> Tuple[Tensor, ...]:
        """Returns the fixed learning rates as tensors, so that a change compiles no new graph.

        In PyNative mode, a compiled step does not see data that replaced those of a Parameter.
        """
        return tuple(
            Tensor(rate.value.asnumpy()) if fixed else _NO_RATE
            for rate, fixed in zip(self.learning_rates, self.is_fixed)
        )

    def now(self, done):
        """Returns the same as `construct`, called from Python, where a number needs no operator.

        Raises:
            RuntimeError: If a list of learning rates has none for this step.
        """
        return (
            tuple(rate.now(done) for rate in self.learning_rates),
            tuple(decay.now(done) for decay in self.weight_decays),
            tuple(decay.now(done) for decay in self.ema_decays),
        )


_NO_RATE = Tensor(0.0, ms.float32)


def _values(sources):
    def value(source):
        if isinstance(source, _IteratorLearningRate):
            return Listed(source)
        return Scheduled(source) if isinstance(source, nn.Cell) else Fixed(source)

    return nn.CellList([value(source) for source in sources], auto_prefix=False)


class Fixed(nn.Cell):
    """A value that stays the same until another one is assigned."""

    def __init__(self, value):
        super().__init__(auto_prefix=False)
        self.value = value

    def construct(self, done):
        return self.value

    def now(self, done):
        return self.value


class Scheduled(nn.Cell):
    """A value computed by a schedule from the number of steps made."""

    def __init__(self, schedule):
        super().__init__(auto_prefix=False)
        self.schedule = schedule

    def construct(self, done):
        return ops.cast(self.schedule(done), ms.float32).reshape(())

    def now(self, done):
        return self(done)


class Listed(Scheduled):
    """A value from a list with one value for each step."""

    def now(self, done):
        values, step = self.schedule.learning_rate.asnumpy(), int(done.asnumpy().reshape(()))
        if not 0 <= step < len(values):
            raise RuntimeError(
                f"The list of learning rates has {len(values)} values, and none for "
                f"step {step} (counted from 0)."
            )
        return placed(Tensor(values[step]))


def take_options(class_name: str, params: Any, infinity_norm: bool) -> Tuple[Any, Dict[int, dict]]:
    """Removes the options that `nn.Optimizer` does not know from the groups.

    Args:
        params: the parameters, or groups as dicts.

    Returns:
        The parameters or groups for `nn.Optimizer`, and a dict from the id of a Parameter to the
        fields of its `Formula` that its group sets.
    """
    if not isinstance(params, (list, tuple)) or not any(
        isinstance(group, dict) for group in params
    ):
        return params, {}
    groups: List[Any] = []
    options: Dict[int, dict] = {}
    for group in params:
        if isinstance(group, dict):
            given = {name: group[name] for name in OPTIONS if name in group}
            group = {key: value for key, value in group.items() if key not in OPTIONS}
            fields = formula_fields(class_name, given, infinity_norm)
            if "params" in group:
                options.update((id(parameter), fields) for parameter in group["params"])
        groups.append(group)
    return groups, options


def formula_fields(class_name, given, infinity_norm):
    fields = {}
    if "betas" in given:
        fields["beta1"], fields["beta2"] = unpack_betas(class_name, given["betas"])
        for name in ("beta1", "beta2"):
            check_decay_rate(class_name, name, fields[name])
    if "eps" in given:
        check_eps(class_name, given["eps"], infinity_norm)
        fields["eps"] = given["eps"]
    if "maximize" in given:
        check_bool(class_name, "maximize", given["maximize"])
        fields["maximize"] = given["maximize"]
    return fields


def split_groups(
    optimizer: nn.Optimizer, formula: Formula, options: Dict[int, dict], owned: Sequence[Owned]
) -> Tuple[Groups, GroupValues]:
    """Returns the groups that `nn.Optimizer` made of its arguments.

    Args:
        optimizer: an `nn.Optimizer` whose loss scale is 1, after its `__init__`.
        options: the dict of `take_options`.

    Returns:
        A `Groups` and a `GroupValues`.
    """
    count = len(optimizer.parameters)
    rates, decays = optimizer.learning_rate, optimizer.weight_decay
    rates = map(_fixed, rates if optimizer.is_group_lr else [rates] * count)
    decays = decays if optimizer.is_group else [decays] * count
    members: Dict[tuple, tuple] = {}
    index: List[int] = []
    for parameter, rate, decay in zip(optimizer.parameters, rates, decays):
        own = formula._replace(**options.get(id(parameter), {}))
        key = (id(rate), float(decay) if isinstance(decay, Tensor) else id(decay), own)
        members.setdefault(key, (len(members), rate, decay, own))
        index.append(members[key][0])
    _, group_rates, group_decays, formulas = zip(*members.values())
    decayed = tuple(flag and optimizer.exec_weight_decay for flag in optimizer.decay_flags)
    centralized = optimizer.grad_centralization_flags if optimizer.is_group else (False,) * count
    groups = Groups(tuple(index), formulas, decayed, centralized, tuple(owned))
    ema_decays = (formulas[0].ema_decay,) if formulas[0].averages_by_schedule else ()
    return groups, GroupValues(group_rates, group_decays, ema_decays)


class Rates:
    """Reads and sets the learning rates of an optimizer from Python."""

    def __init__(self, optimizer, params):
        self.class_name = type(optimizer).__name__
        self.has_groups = optimizer.is_group_lr
        if self.has_groups:
            rate_of = dict(zip(map(id, optimizer.parameters), optimizer.learning_rate))
            groups = [list(group["params"]) for group in params if "params" in group]
            self.sources = [_fixed(rate_of[id(group[0])]) for group in groups]
        else:
            self.sources = [optimizer.learning_rate]
        self.values = _values(self.sources)  # kept, since each cell is compiled in its first call

    def read(self, done: Parameter) -> Union[float, List[float]]:
        """Returns the rate after `done` steps, a float; with groups, a list with one for each."""
        values = [float(value.now(done).asnumpy().reshape(())) for value in self.values]
        return values if self.has_groups else values[0]

    def write(self, value: Any) -> None:
        """Sets all rates to a number, or each to its own."""
        values = list(value) if isinstance(value, (list, tuple)) else [value] * len(self.sources)
        if len(values) != len(self.sources):
            raise ValueError(
                f"For '{self.class_name}', 'lr' must be a number or a list of "
                f"{len(self.sources)}, one for each group with a rate, but got "
                f"{len(values)}."
            )
        wanted: Dict[int, tuple] = {}
        begin = f"For '{self.class_name}', "
        for place, (source, rate) in enumerate(zip(self.sources, values)):
            if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)):
                raise TypeError(f"{begin}'lr' must be a number, but got {rate!r}.")
            if not 0.0 <= rate < math.inf:
                raise ValueError(f"{begin}'lr' must be finite and not negative, but got {rate!r}.")
            if not isinstance(source, Parameter):
                group = f" of group {place}" if self.has_groups else ""
                raise ValueError(
                    f"{begin}'lr' cannot be set: the learning rate{group} comes from "
                    f"{type(source).__name__}."
                )
            other, where = wanted.setdefault(id(source), (rate, place))
            if other != rate:
                raise ValueError(
                    f"{begin}groups {where} and {place} share the argument 'learning_rate', but "
                    f"got 'lr' {other!r} and {rate!r}."
                )
        for source, rate in zip(self.sources, values):
            # In its own memory, where a compiled step reads it.
            ops.assign(source, Tensor(rate, ms.float32))


def _fixed(rate):
    """Returns the Parameter of a fixed rate that stands beside schedules.

    MindSpore wraps it in a schedule that returns rate + 1.0 - 1.0 in float32: 0.05 is then off by
    1e-6 of itself.
    """
    return rate.learning_rate if isinstance(rate, _ConvertToCell) else rate
