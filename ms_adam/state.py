"""The state of an optimizer, under the names that `mindspore.nn.Adam` gives it.

`ENTRIES` and `NUMBERS` say what the state holds; checkpoints, backends and sharding follow these
tables. Entries have one buffer for each parameter, or, flat, one for all parameters, with a record
of the slice of each, so that a checkpoint can be read without the optimizer that wrote it.
"""

import json
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops
from mindspore.ops import operations as P

from ms_adam.compat import bfloat16
from ms_adam.options import Execution, Formula

Owned = Optional[Tuple[int, int]]  # (begin, size) of the elements kept here; None: none are


def compute_dtype(dtype: Any) -> Any:
    """Returns the dtype in which a weight of `dtype` is updated."""
    return ms.float64 if dtype == ms.float64 else ms.float32


def master_dtype(dtype: Any) -> Optional[Any]:
    """Returns the dtype of the master weight of a parameter of `dtype`; None if it has none."""
    return ms.float32 if dtype in (ms.float16, bfloat16) else None


# The roles of entries. A moment starts at zero, is part of flat state, and is kept on the host by
# `use_offload`. A copy starts at the value of its parameter. A sum starts at zero, and every rank
# has all of it, as it has the gradients that are added up in it.
MOMENT, COPY, SUM = "moment", "copy", "sum"


class Entry(NamedTuple):
    """A row of the table of what the optimizer remembers for each parameter.

    Attributes:
        name: stands before the parameter's name: "moment1" makes "moment1.<parameter>".
        needed: whether an optimizer with a formula and an execution has the entry.
        storage: maps the parameter's dtype to the dtype in which the entry is kept; to None if
            there is no entry for such a parameter.
        compute: maps the parameter's dtype to the dtype of the arithmetic on it. Equal to the
            storage dtype for every entry so far.
        role: MOMENT, COPY or SUM.
    """

    name: str
    needed: Callable[[Formula, Execution], bool]
    storage: Callable[[Any], Optional[Any]]
    compute: Callable[[Any], Any]
    role: str


class Number(NamedTuple):
    """A row of the table of what the optimizer remembers once, for all parameters.

    Attributes:
        name: of the Parameter.
        dtype: its dtype.
        initial: its first value, of its shape.
        needed: as in `Entry`.
        after: maps a formula and a number of updates to the value after them; None for a value that
            no checkpoint sets.
    """

    name: str
    dtype: Any
    initial: Any
    needed: Callable[[Formula, Execution], bool]
    after: Optional[Callable[[Formula, int], float]]


def _always(formula, execution):
    return True


def _averages(formula, execution):
    return not formula.infinity_norm


def _maximum(formula, execution):  # AdaMax: the powers are those of `nn.AdaMax`
    return formula.infinity_norm


def _scheduled(formula, execution):  # else it is 1 - ema_decay^t
    return formula.averages_by_schedule and formula.ema_debias


def _last_beta(formula):
    return formula.beta1 if formula.infinity_norm else formula.beta2


# float32 moments of float16 parameters: in float16, squares of gradients under 2.4e-4 vanish.
ENTRIES = (
    Entry("moment1", _always, compute_dtype, compute_dtype, MOMENT),
    Entry("moment2", _always, compute_dtype, compute_dtype, MOMENT),
    Entry("vhat", lambda formula, _: formula.amsgrad, compute_dtype, compute_dtype, MOMENT),
    Entry("ema", lambda f, _: f.ema_decay is not None, compute_dtype, compute_dtype, MOMENT),
    Entry("master_weight", lambda _, e: e.masters, master_dtype, compute_dtype, COPY),
    Entry("accumulator", lambda _, e: e.accumulates, compute_dtype, compute_dtype, SUM),
)
MOMENTS = tuple(entry.name for entry in ENTRIES if entry.role == MOMENT)
SUMS = tuple(entry.name for entry in ENTRIES if entry.role == SUM)
NUMBERS = (
    # The powers, so that `nn.Adam` can continue from a checkpoint of ms_adam.
    Number("beta1_power", ms.float32, 1.0, _averages, lambda formula, t: formula.beta1**t),
    Number("beta1_power", ms.float32, [1.0], _maximum, lambda formula, t: formula.beta1**t),
    Number("beta2_power", ms.float32, 1.0, _averages, lambda formula, t: formula.beta2**t),
    Number("update_count", ms.int32, [0], _always, lambda formula, t: t),
    # See `scalars.UpdateCount`.
    Number("counted_power", ms.float32, 1.0, _always, lambda f, t: _last_beta(f) ** t),
    Number("grad_norm", ms.float32, 0.0, lambda _, e: e.max_grad_norm is not None, None),
    Number("skipped", ms.int32, [0], lambda _, e: e.skips, None),
    Number("skipped_in_row", ms.int32, [0], lambda _, e: e.skips, lambda formula, t: 0),
    # How many gradients are in each accumulator.
    Number("accumulated", ms.int32, [0], lambda _, e: e.accumulates, lambda formula, t: 0),
    # See `scalars.AverageRates`. In float32 the sum would stop growing at 1 - 2^-25 / (1 - decay).
    Number("ema_weight", ms.float64, 0.0, _scheduled, lambda formula, t: float(t > 0)),
)
ALIGNMENT = 16  # elements: a cache line of float32
FLAT_LAYOUT, SHARD_LAYOUT = "flat_layout", "shard_layout"


class State:
    """The state before the first step.

    Args:
        parameters: the optimized Parameters.
        formula: a `Formula`.
        execution: an `Execution`.
        owned: for each parameter, the elements whose state this process keeps; see `groups.Groups`.

    Attributes:
        moments: {name: one buffer for each parameter, None where another process keeps it}; with
            flat state, one buffer for each dtype of moments, named "flat_moment1.<dtype>".
        weights: what the update acts on: the master weight of a parameter if it has one here, else
            the parameter; `parameters` itself without master weights.
        accumulators: sums of gradients, one for each parameter; () if none are accumulated.
        numbers: {name: Parameter}.
        after: {name: function} of the numbers that a checkpoint sets; see `Number`.
        layout: the `FlatLayout` of flat state; None without.
    """

    def __init__(
        self,
        parameters: ParameterTuple,
        formula: Formula,
        execution: Execution,
        owned: Sequence[Owned],
    ):
        entries = [entry for entry in ENTRIES if entry.needed(formula, execution)]
        self.layout = FlatLayout.of(parameters, owned) if execution.flat else None
        self.moments: Dict[str, Tuple[Optional[Parameter], ...]] = {}
        self.weights, self.accumulators = parameters, ()
        for entry in entries:
            if entry.role == MOMENT and self.layout is not None:
                self.moments[entry.name] = self.layout.buffers(entry.name)
                continue
            buffers = tuple(
                _make_buffer(entry, parameter, own) for parameter, own in zip(parameters, owned)
            )
            if entry.role == MOMENT:
                self.moments[entry.name] = buffers
            elif entry.role == SUM:
                self.accumulators = ParameterTuple(buffers)
            else:
                self.weights = ParameterTuple(
                    tuple(
                        parameter if buffer is None else buffer
                        for buffer, parameter in zip(buffers, parameters)
                    )
                )
        numbers = [number for number in NUMBERS if number.needed(formula, execution)]
        self.numbers = {
            number.name: _parameter(Tensor(number.initial, number.dtype), number.name)
            for number in numbers
        }
        if execution.scaler is not None:  # Parameters of the scaler, not of the optimizer
            self.numbers["scale_value"] = execution.scaler.scale
            if execution.scaler.counter is not None:
                self.numbers["scale_counter"] = execution.scaler.counter
        self.after = {number.name: number.after for number in numbers if number.after is not None}

    def carried(self) -> List[Parameter]:
        """Returns the numbers that a checkpoint sets if it has them."""
        names = ("skipped", "scale_value", "scale_counter", "accumulated", "ema_weight")
        return [self.numbers[name] for name in names if name in self.numbers]

    def moments_here(self) -> Dict[str, ParameterTuple]:
        """Returns the moments that this process keeps, by name."""
        return {
            name: ParameterTuple(tuple(buffer for buffer in buffers if buffer is not None))
            for name, buffers in self.moments.items()
        }


class FlatLayout(NamedTuple):
    """The places of the parameters' moments in the buffers of their dtype.

    With `shard_state`, only of the parameters whose moments are kept in this process.

    Attributes:
        names: the parameters' names.
        shapes: their shapes.
        dtypes: of their moments, "float32" or "float64".
        offsets: where they begin, in elements.
    """

    names: List[str]
    shapes: List[List[int]]
    dtypes: List[str]
    offsets: List[int]

    @classmethod
    def of(cls, parameters: Sequence[Parameter], owned: Sequence[Owned]) -> "FlatLayout":
        """Returns the layout of what is owned, each from a multiple of `ALIGNMENT` elements on."""
        layout = cls([], [], [], [])
        ends: Dict[str, int] = {}
        for parameter, own in zip(parameters, owned):
            if own is not None:
                dtype = dtype_name(compute_dtype(parameter.dtype))
                layout.names.append(parameter.name)
                layout.shapes.append(list(shape_of_rows(parameter.shape, own[1])))
                layout.dtypes.append(dtype)
                layout.offsets.append(ends.get(dtype, 0))
                ends[dtype] = layout.offsets[-1] + _aligned(own[1])
        return layout

    def sizes(self) -> Dict[str, int]:
        """Returns the length of the buffer of each dtype, float32 first."""
        sizes: Dict[str, int] = {}
        for shape, dtype, offset in zip(self.shapes, self.dtypes, self.offsets):
            end = offset + _aligned(int(np.prod(shape)))
            sizes[dtype] = max(sizes.get(dtype, ALIGNMENT), end)
        return dict(sorted(sizes.items()))

    def buffers(self, prefix: str) -> Tuple[Parameter, ...]:
        """Returns the buffers of an entry, filled with zeros."""
        return tuple(
            _parameter(Tensor(np.zeros(size), getattr(ms, dtype)), f"flat_{prefix}.{dtype}")
            for dtype, size in self.sizes().items()
        )

    def split(self, prefix: str, buffers: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Splits {dtype: buffer of an entry} into {"<prefix>.<parameter>": array}."""
        entries = {}
        for name, shape, dtype, offset in zip(*self):
            size = int(np.prod(shape))
            entries[f"{prefix}.{name}"] = buffers[dtype][offset : offset + size].reshape(shape)
        return entries


class ShardLayout(NamedTuple):
    """The rows of parameters that the state of one rank holds.

    Attributes:
        names: the parameters' names.
        shapes: their whole shapes.
        begins: the first element that is kept.
        sizes: the number of elements that are kept.
    """

    names: List[str]
    shapes: List[List[int]]
    begins: List[int]
    sizes: List[int]

    @classmethod
    def of(cls, parameters: Sequence[Parameter], owned: Sequence[Owned]) -> "ShardLayout":
        """Returns the layout of what is owned of parameters."""
        mine = [
            (parameter.name, list(parameter.shape), *own)
            for parameter, own in zip(parameters, owned)
            if own is not None
        ]
        return cls(*map(list, zip(*mine))) if mine else cls([], [], [], [])


def layout_entry(layout: Any) -> Parameter:
    """Returns a layout as a Parameter of bytes, to be kept in a checkpoint."""
    name = FLAT_LAYOUT if isinstance(layout, FlatLayout) else SHARD_LAYOUT
    text = json.dumps(layout._asdict()).encode()
    return _parameter(Tensor(np.frombuffer(text, np.uint8).copy()), name)


def read_layout(kind: Any, array: np.ndarray) -> Any:
    """Returns the layout of a kind, `FlatLayout` or `ShardLayout`, that `layout_entry` wrote."""
    return kind(**json.loads(np.asarray(array, np.uint8).tobytes()))


class WeightKind(NamedTuple):
    """The properties of a weight that are known before it is made.

    Attributes:
        name: the parameter's name.
        shape: the parameter's shape.
        dtype: dtype of the weight: float32 if it is a master weight.
        parameter_dtype: dtype of the parameter.
    """

    name: str
    shape: Tuple[int, ...]
    dtype: Any
    parameter_dtype: Any


def weight_kinds(parameters: Sequence[Parameter], masters: bool) -> List[WeightKind]:
    """Returns the kinds of the weights that the update will act on."""
    kinds = []
    for parameter in parameters:
        master = master_dtype(parameter.dtype) if masters else None
        dtype = parameter.dtype if master is None else master
        kinds.append(WeightKind(parameter.name, parameter.shape, dtype, parameter.dtype))
    return kinds


class NamedEntry(NamedTuple):
    """One entry of one parameter, whole, whichever ranks keep its rows.

    Attributes:
        name: "moment1.<parameter>" and so on.
        place: of its parameter among the parameters.
        shape: the parameter's.
        dtype: NumPy's.
        is_sum: whether every rank has all of it.
    """

    name: str
    place: int
    shape: Tuple[int, ...]
    dtype: np.dtype
    is_sum: bool


def named_entries(
    names: Sequence[str], parameters: Sequence[Parameter], formula: Formula, execution: Execution
) -> List[NamedEntry]:
    """Returns the entries of all parameters, also those of other ranks, in one order on all ranks.

    Args:
        names: the parameters' names when the state was made.
        parameters: the optimized Parameters.
        formula: a `Formula`.
        execution: an `Execution`.
    """
    return [
        NamedEntry(
            f"{entry.name}.{name}",
            i,
            parameter.shape,
            np.dtype(dtype_name(entry.storage(parameter.dtype))),
            entry.role == SUM,
        )
        for entry in ENTRIES
        if entry.needed(formula, execution)
        for i, (name, parameter) in enumerate(zip(names, parameters))
        if entry.storage(parameter.dtype) is not None
    ]


def shape_of_rows(shape: Sequence[int], size: int) -> Tuple[int, ...]:
    """Returns the shape of `size` elements, whole rows, of a parameter of a shape."""
    whole = int(np.prod(shape))
    return tuple(shape) if size == whole else (size * shape[0] // whole, *shape[1:])


def dtype_name(dtype: Any) -> str:
    """Returns MindSpore's dtype in NumPy's words: "float32"."""
    return str(dtype).lower()


def numbers_after(optimizer: Any, updates: int) -> List[Tuple[Parameter, np.ndarray]]:
    """Returns (Parameter, array) of the numbers of an optimizer after a number of updates."""
    found = []
    for name, after in optimizer.state.after.items():
        number = optimizer.state.numbers[name]
        value = np.array(after(optimizer.formula, updates), dtype_name(number.dtype))
        found.append((number, value.reshape(number.shape)))
    return found


def on_host(optimizer: Any) -> frozenset:
    """Returns the ids of the Parameters that `use_offload=True` keeps in host memory."""
    if not optimizer.execution.on_host:
        return frozenset()
    kept = (getattr(optimizer, name, None) or () for name in MOMENTS)
    return frozenset(id(buffer) for buffers in kept for buffer in buffers)


def write(parameter: Parameter, value: Any, host: bool) -> None:
    """Writes into a Parameter's own memory.

    After a step in PyNative mode, Parameter.set_data gives it other memory than the compiled step
    works on (MindSpore 2.10), and all later steps are lost. Likewise, an operator on the device
    moves a Parameter from host memory to the device, and a graph that was compiled before keeps
    using the host memory.

    Args:
        parameter: a Parameter of an optimizer.
        value: anything that `Tensor` accepts, of the same shape.
        host: whether the Parameter stays in host memory; see `on_host`.
    """
    if 0 in parameter.shape:
        return
    assign = P.Assign().set_device("CPU") if host else ops.assign
    assign(parameter, Tensor(value, parameter.dtype))


def _parameter(value, name):
    return Parameter(value, name=name, requires_grad=False)


def _aligned(size):
    return -(-size // ALIGNMENT) * ALIGNMENT


def _make_buffer(entry, parameter, own):
    """Returns the buffer of an entry for what is owned of a parameter; None if there is none."""
    dtype = entry.storage(parameter.dtype)
    if entry.role == SUM:
        own = (0, parameter.size)
    if own is None or dtype is None:
        return None
    name, shape = f"{entry.name}.{parameter.name}", shape_of_rows(parameter.shape, own[1])
    if entry.role == COPY:
        value = ops.cast(parameter, dtype)
        if shape != parameter.shape:
            value = Tensor(value.asnumpy().reshape(-1)[own[0] : sum(own)].reshape(shape))
        return _parameter(value, name)
    # MindSpore's initializers refuse empty shapes.
    if 0 in shape or shape != parameter.shape:
        return _parameter(Tensor(np.zeros(shape), dtype), name)
    # A clone keeps how the parameter is laid out over devices; the moment must follow it.
    moment = parameter.clone(init="zeros")
    moment.requires_grad = False
    if moment.dtype != dtype:
        moment.set_dtype(dtype)
    moment.name = name
    return moment
