"""The state of an optimizer, under the names that `mindspore.nn.Adam` gives it.

`ENTRIES` and `NUMBERS` say what the state holds; checkpoints, backends and sharding follow these
tables. Entries have one buffer for each parameter, or, flat, one for all parameters, with a record
of the slice of each, so that a checkpoint can be read without the optimizer that wrote it.
"""

import json
from collections import Counter
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops
from mindspore.ops import operations as P

from ms_adam.compat import InplaceCopy, bfloat16
from ms_adam.narrow import encoded_size
from ms_adam.options import Execution, Formula

Owned = Optional[Tuple[int, int]]  # (begin, size) of the elements kept here; None: none are


def compute_dtype(dtype: Any) -> Any:
    """Returns the dtype in which a weight of `dtype` is updated."""
    return ms.float64 if dtype == ms.float64 else ms.float32


def master_dtype(dtype: Any) -> Optional[Any]:
    """Returns the dtype of the master weight of a parameter of `dtype`; None if it has none."""
    return ms.float32 if dtype in (ms.float16, bfloat16) else None


def moment_dtype(dtype: Any, execution: Execution) -> Any:
    """Returns the dtype in which a moment of a weight of `dtype` is kept; uint8 for codes."""
    narrow = {"bfloat16": bfloat16, "int8": ms.uint8}
    return narrow.get(execution.state_dtype, compute_dtype(dtype))


def copy_dtype(dtype: Any, execution: Execution) -> Optional[Any]:
    """Returns the dtype of what a master weight adds to a parameter of `dtype`; None if none."""
    if execution.halves:
        return ms.int16 if dtype == bfloat16 else None
    return master_dtype(dtype)


# The roles of entries. A moment starts at zero, is part of flat state, and is kept on the host by
# `use_offload`. A copy starts at the value of its parameter; its trailing bits are then zero. A sum
# starts at zero, and every rank has all of it, as it has the gradients that are added up in it.
MOMENT, COPY, SUM = "moment", "copy", "sum"


class Entry(NamedTuple):
    """A row of the table of what the optimizer remembers for each parameter.

    Attributes:
        name: stands before the parameter's name: "moment1" makes "moment1.<parameter>".
        needed: whether an optimizer with a formula and an execution has the entry.
        storage: maps the parameter's dtype and the execution to the dtype in which the entry is
            kept; to None if there is no entry for such a parameter. uint8 stands for codes, which
            the exponents of their blocks follow, and int16 for trailing bits of a master.
        role: MOMENT, COPY or SUM.
    """

    name: str
    needed: Callable[[Formula, Execution], bool]
    storage: Callable[[Any, Execution], Optional[Any]]
    role: str


class Number(NamedTuple):
    """A row of the table of what the optimizer remembers once, for all parameters.

    Attributes:
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
    Entry("moment1", _always, moment_dtype, MOMENT),
    Entry("moment2", _always, moment_dtype, MOMENT),
    Entry("vhat", lambda formula, _: formula.amsgrad, moment_dtype, MOMENT),
    Entry("ema", lambda f, _: f.ema_decay is not None, lambda d, _: compute_dtype(d), MOMENT),
    Entry("master_weight", lambda _, e: e.masters and not e.halves, copy_dtype, COPY),
    Entry("trailing_bits", lambda _, e: e.halves, copy_dtype, COPY),
    Entry("accumulator", lambda _, e: e.accumulates, lambda d, _: compute_dtype(d), SUM),
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
        owned: for each parameter, the elements whose state this process keeps; see `groups.Groups`.
        rows: of flat state; see `FlatLayout.of`.

    Attributes:
        moments: {name: one buffer for each parameter, None where another process keeps it}; with
            flat state, the buffers of the layout, named "flat_moment1.<buffer>".
        weights: what the update acts on: the master weight of a parameter, or its trailing bits, if
            it has them here, else the parameter; `parameters` itself without master weights.
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
        rows: Optional[Sequence[Sequence[int]]] = None,
    ):
        entries = [entry for entry in ENTRIES if entry.needed(formula, execution)]
        self.layout = FlatLayout.of(parameters, owned, rows) if execution.flat else None
        self.moments: Dict[str, Tuple[Optional[Parameter], ...]] = {}
        self.parameters = self.weights = parameters
        self.accumulators: Tuple[Parameter, ...] = ()
        for entry in entries:
            if entry.role == MOMENT and self.layout is not None:
                self.moments[entry.name] = self.layout.buffers(entry, execution)
                continue
            buffers = tuple(
                _make_buffer(entry, execution, parameter, own)
                for parameter, own in zip(parameters, owned)
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

    def carried(self) -> Dict[str, Parameter]:
        """Returns the numbers that a checkpoint sets if it has them."""
        names = ("skipped", "scale_value", "scale_counter", "accumulated", "ema_weight")
        return {name: self.numbers[name] for name in names if name in self.numbers}

    def moments_of(self, name: str, members: Sequence[int]) -> ParameterTuple:
        """Returns the moments of a name of some parameters; flat, the buffer that they share."""
        if self.layout is not None:
            place = self.layout.names.index(self.parameters[members[0]].name)
            members = [list(self.layout.sizes()).index(self.layout.dtypes[place])]
        return ParameterTuple(tuple(self.moments[name][i] for i in members))

    def moments_here(self) -> Dict[str, ParameterTuple]:
        """Returns the moments that this process keeps, by name."""
        return {
            name: ParameterTuple(tuple(buffer for buffer in buffers if buffer is not None))
            for name, buffers in self.moments.items()
        }


class FlatLayout(NamedTuple):
    """The places of the parameters' moments in buffers.

    With `shard_state`, only of the parameters whose moments are kept in this process.

    Attributes:
        dtypes: their buffers: "float32" or "float64", of all of a dtype; "float32.0" and so on, of
            rows.
        offsets: where they begin, in elements.
    """

    names: List[str]
    shapes: List[List[int]]
    dtypes: List[str]
    offsets: List[int]

    @classmethod
    def of(
        cls,
        parameters: Sequence[Parameter],
        owned: Sequence[Owned],
        rows: Optional[Sequence[Sequence[int]]] = None,
    ) -> "FlatLayout":
        """Returns the layout of what is owned.

        Args:
            rows: the places of the parameters that have a buffer of their own, end to end. None:
                those of one dtype have one, each from a multiple of `ALIGNMENT` elements on.
        """
        layout = cls([], [], [], [])
        ends: Dict[str, int] = {}
        for number, row in enumerate([range(len(parameters))] if rows is None else rows):
            for i in row:
                own, parameter = owned[i], parameters[i]
                if own is not None:
                    buffer = dtype_name(compute_dtype(parameter.dtype))
                    buffer += "" if rows is None else f".{number}"
                    layout.names.append(parameter.name)
                    layout.shapes.append(list(shape_of_rows(parameter.shape, own[1])))
                    layout.dtypes.append(buffer)
                    layout.offsets.append(ends.get(buffer, 0))
                    ends[buffer] = layout.offsets[-1] + _aligned(own[1], buffer)
        return layout

    def sizes(self) -> Dict[str, int]:
        """Returns {buffer: its length}, at least 1, sorted."""
        sizes: Dict[str, int] = {}
        for shape, buffer, offset in zip(self.shapes, self.dtypes, self.offsets):
            end = offset + _aligned(int(np.prod(shape)), buffer)
            sizes[buffer] = max(sizes.get(buffer, _aligned(1, buffer)), end)
        return dict(sorted(sizes.items()))

    def buffers(self, entry: Entry, execution: Execution) -> Tuple[Parameter, ...]:
        """Returns the buffers of an entry, filled with zeros."""
        return tuple(
            _parameter(
                Tensor(np.zeros(size), entry.storage(getattr(ms, buffer.split(".")[0]), execution)),
                f"flat_{entry.name}.{buffer}",
            )
            for buffer, size in self.sizes().items()
        )

    def split(self, prefix: str, buffers: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Splits {buffer: its array} of an entry into {"<prefix>.<parameter>": array}."""
        entries = {}
        for name, shape, dtype, offset in zip(*self):
            size = int(np.prod(shape))
            entries[f"{prefix}.{name}"] = buffers[dtype][offset : offset + size].reshape(shape)
        return entries


def stacked(shapes: Sequence[Tuple[int, ...]]) -> List[Tuple[Tuple[int, ...], int]]:
    """Returns (shape, number of tensors) of the shapes that stand first in a row.

    For n tensors of a shape a Stack for gradients, one for weights, a Slice and an Unstack replace
    n Slices: 4 tensors are the fewest that lose nothing. Large tensors stand apart: their launch is
    nothing beside their time, and MindSpore 2.10 sums one of them in threads on the CPU, but not
    the rows of a stack, which gives other bits.
    """
    counts = Counter(shapes)
    return [
        (shape, count)
        for shape, count in counts.items()
        if count >= 4 and 0 < np.prod(shape) <= 100_000
    ]


def in_row(places: Sequence[int], shapes: Sequence[Tuple[int, ...]]) -> List[int]:
    """Returns places of parameters in the order of a row: `stacked` shapes, then the others."""
    first = [shape for shape, _ in stacked([shapes[i] for i in places])]
    ranks = {shape: rank for rank, shape in enumerate(first)}
    return sorted(places, key=lambda i: ranks.get(shapes[i], len(first)))


class ShardLayout(NamedTuple):
    """The rows of parameters that the state of one rank holds.

    Attributes:
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

    Narrow ones stand here as what they stand for: float32 moments and master weights.

    Args:
        names: the parameters' names when the state was made.
    """
    return [
        NamedEntry(
            f"{shown_as(entry.name)}.{name}",
            i,
            parameter.shape,
            np.dtype(dtype_name(compute_dtype(parameter.dtype))),
            entry.role == SUM,
        )
        for entry in ENTRIES
        if entry.needed(formula, execution)
        for i, (name, parameter) in enumerate(zip(names, parameters))
        if entry.storage(parameter.dtype, execution) is not None
    ]


def shown_as(entry: str) -> str:
    """Returns the name under which checkpoints exchange an entry."""
    return "master_weight" if entry == "trailing_bits" else entry


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
    moments = optimizer.state.moments.values()
    return frozenset(id(buffer) for buffers in moments for buffer in buffers)


def write(parameter: Parameter, value: Any, host: bool) -> None:
    """Writes into a Parameter's own memory.

    After a step in PyNative mode, Parameter.set_data gives it other memory than the compiled step
    works on (MindSpore 2.10), and all later steps are lost. Likewise, an operator on the device
    moves a Parameter from host memory to the device, and a graph that was compiled before keeps
    using the host memory.

    Args:
        value: anything that `Tensor` accepts, of the same shape.
        host: whether the Parameter stays in host memory; see `on_host`.
    """
    if 0 in parameter.shape:
        return
    value = Tensor(value, parameter.dtype)
    if parameter.dtype == bfloat16 and ms.get_context("device_target") == "CPU":
        InplaceCopy()(parameter, value)  # there, Assign has no bfloat16
    else:
        (P.Assign().set_device("CPU") if host else ops.assign)(parameter, value)


def _parameter(value, name):
    return Parameter(value, name=name, requires_grad=False)


def _aligned(size, buffer):
    """Returns where the next parameter may begin; in a buffer of a row there are no gaps."""
    return size if "." in buffer else -(-size // ALIGNMENT) * ALIGNMENT


def _make_buffer(entry, execution, parameter, own):
    """Returns the buffer of an entry for what is owned of a parameter; None if there is none."""
    dtype = entry.storage(parameter.dtype, execution)
    if entry.role == SUM:
        own = (0, parameter.size)
    if own is None or dtype is None:
        return None
    name, shape = f"{entry.name}.{parameter.name}", shape_of_rows(parameter.shape, own[1])
    if dtype == ms.uint8:
        return _parameter(Tensor(np.zeros(encoded_size(own[1])), dtype), name)
    if entry.role == COPY and dtype != ms.int16:
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
