"""What Adam remembers between steps, under the names that `mindspore.nn.Adam` gives it.

In one buffer for each parameter, or flat: one for all parameters, with a record of which slice is
whose, so that a checkpoint can be read without the optimizer that wrote it.
"""

import json
from typing import List, NamedTuple, Optional, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops
from mindspore.ops import operations as P

from ms_adam.compat import bfloat16


class State(NamedTuple):
    """The buffers of all parameters, in the order of the parameters.

    Where another process keeps them (`shard_state`), None stands in the tuples; flat buffers hold
    what is kept here alone.

    Attributes:
        moment1: first moments m, each of its parameter's shape; names `moment1.<parameter>`.
        moment2: second moments v, likewise; names `moment2.<parameter>`.
        vhat: the largest second moments, under AMSGrad; else None; names `vhat.<parameter>`.
        beta1_power: beta1^t, float32 of shape (). Kept so that `nn.Adam` can go on from a checkpoint
            of ours.
        beta2_power: beta2^t, likewise.
        update_count: t, the number of updates made, int32 of shape (1,).
        counted_power: beta2_power as the last update set it; see `scalars.UpdateCount`.
        norm: global norm of the gradients in the last step, float32 of shape (); None if they are
            not clipped.
    """

    moment1: Tuple[Optional[Parameter], ...]
    moment2: Tuple[Optional[Parameter], ...]
    vhat: Optional[Tuple[Optional[Parameter], ...]]
    beta1_power: Parameter
    beta2_power: Parameter
    update_count: Parameter
    counted_power: Parameter
    norm: Optional[Parameter]

    @classmethod
    def zeros(cls, parameters, amsgrad, clips, owned):
        """A state before the first step: float32, or float64 for float64 parameters.

        Args:
            parameters: what is optimized.
            amsgrad: whether there is vhat.
            clips: whether gradients are clipped.
            owned: which elements of each are kept here; see `groups.Groups`.
        """

        def zeros(prefix):
            return tuple(
                None if own is None else _zeros_like(prefix, parameter, own)
                for parameter, own in zip(parameters, owned)
            )

        return cls(
            zeros("moment1"), zeros("moment2"), zeros("vhat") if amsgrad else None, *_numbers(clips)
        )


def kept(moments):
    """The buffers that are kept in this process."""
    return ParameterTuple(tuple(moment for moment in moments if moment is not None))


class FlatLayout(NamedTuple):
    """Where each parameter's moments stand in the buffers of its moments' dtype.

    Attributes:
        names: the parameters' names.
        shapes: their shapes.
        dtypes: of their moments, "float32" or "float64".
        offsets: where they begin, in elements.

    With `shard_state`, of the parameters whose moments are kept in this process.
    """

    names: List[str]
    shapes: List[List[int]]
    dtypes: List[str]
    offsets: List[int]

    @classmethod
    def of(cls, parameters, owned):
        """What is owned of them, each from a multiple of `ALIGNMENT` elements on."""
        layout, ends = cls([], [], [], []), {}
        for parameter, own in zip(parameters, owned):
            if own is not None:
                dtype = _dtype_name(moment_dtype(parameter))
                layout.names.append(parameter.name)
                layout.shapes.append(list(shape_of_rows(parameter.shape, own[1])))
                layout.dtypes.append(dtype)
                layout.offsets.append(ends.get(dtype, 0))
                ends[dtype] = layout.offsets[-1] + -(-own[1] // ALIGNMENT) * ALIGNMENT
        return layout

    def sizes(self):
        """The length of the buffer of each dtype, float32 first."""
        sizes = {}
        for shape, dtype, offset in zip(self.shapes, self.dtypes, self.offsets):
            end = offset + -(-int(np.prod(shape)) // ALIGNMENT) * ALIGNMENT
            sizes[dtype] = max(sizes.get(dtype, ALIGNMENT), end)
        return dict(sorted(sizes.items()))

    def to_bytes(self):
        """As uint8, to be kept in a checkpoint."""
        return _as_bytes(self)

    @classmethod
    def from_bytes(cls, array):
        """What `to_bytes` made."""
        return cls(**_from_bytes(array))

    def split(self, prefix, buffers):
        """The moments of each parameter as {name of the state entry: array}.

        Args:
            prefix: "moment1", "moment2" or "vhat".
            buffers: {dtype: array}.
        """
        entries = {}
        for name, shape, dtype, offset in zip(*self):
            size = int(np.prod(shape))
            entries[f"{prefix}.{name}"] = buffers[dtype][offset : offset + size].reshape(shape)
        return entries


class ShardLayout(NamedTuple):
    """Which rows of which parameters the state of a rank is about.

    Attributes:
        names: the parameters' names.
        shapes: their whole shapes.
        begins: the first element that is kept.
        sizes: how many are.
    """

    names: List[str]
    shapes: List[List[int]]
    begins: List[int]
    sizes: List[int]

    @classmethod
    def of(cls, parameters, owned):
        """What is owned of parameters."""
        mine = [
            (parameter.name, list(parameter.shape), *own)
            for parameter, own in zip(parameters, owned)
            if own is not None
        ]
        return cls(*map(list, zip(*mine))) if mine else cls([], [], [], [])

    def entry(self):
        """As a Parameter, to be kept in a checkpoint."""
        return Parameter(Tensor(_as_bytes(self)), SHARD_LAYOUT, requires_grad=False)

    @classmethod
    def from_bytes(cls, array):
        """What `entry` holds."""
        return cls(**_from_bytes(array))


def _as_bytes(layout):
    return np.frombuffer(json.dumps(layout._asdict()).encode(), np.uint8).copy()


def _from_bytes(array):
    return json.loads(np.asarray(array, np.uint8).tobytes())


ALIGNMENT = 16  # elements: a cache line of float32
FLAT_LAYOUT, SHARD_LAYOUT = "flat_layout", "shard_layout"


def flat_state(parameters, amsgrad, clips, owned):
    """A flat state before the first step; arguments are those of `State.zeros`.

    Returns:
        A `State` whose tuples hold one buffer for each dtype of moments, named
        `flat_moment1.<dtype>` and so on; the `FlatLayout`; and the latter as a uint8 Parameter for
        checkpoints.
    """
    layout = FlatLayout.of(parameters, owned)

    def buffers(prefix):
        return tuple(
            Parameter(
                Tensor(np.zeros(size), getattr(ms, dtype)),
                f"flat_{prefix}.{dtype}",
                requires_grad=False,
            )
            for dtype, size in layout.sizes().items()
        )

    state = State(
        buffers("moment1"),
        buffers("moment2"),
        buffers("vhat") if amsgrad else None,
        *_numbers(clips),
    )
    return state, layout, Parameter(Tensor(layout.to_bytes()), FLAT_LAYOUT, requires_grad=False)


def moment_dtype(parameter):
    """The dtype of a parameter's moments: squares of float16 gradients would vanish in float16."""
    return ms.float64 if parameter.dtype == ms.float64 else ms.float32


def shape_of_rows(shape, size):
    """The shape of so many elements, whole rows, of a parameter of a shape."""
    whole = int(np.prod(shape))
    return tuple(shape) if size == whole else (size * shape[0] // whole, *shape[1:])


def takes_master(parameter):
    """Whether a parameter has a float32 copy under master weights."""
    return parameter.dtype in (ms.float16, bfloat16)


def master_weights(parameters, owned):
    """What the update acts on: a float32 copy of each float16 or bfloat16 parameter.

    Returns:
        ParameterTuple. Where the parameter is float32 or wider, or nothing of it is owned, it is
        the parameter itself, else what is owned, a new one named `master_weight.<parameter>`.
    """
    return ParameterTuple(
        tuple(
            parameter if own is None or not takes_master(parameter) else _master(parameter, own)
            for parameter, own in zip(parameters, owned)
        )
    )


class WeightKind(NamedTuple):
    """What can be asked of a weight before it is made.

    Attributes:
        name: the parameter's name.
        shape: the parameter's shape.
        dtype: dtype of the weight: float32 if it is a master weight.
        parameter_dtype: dtype of the parameter.
    """

    name: str
    shape: Tuple[int, ...]
    dtype: object
    parameter_dtype: object


def weight_kinds(parameters, masters):
    """The kinds of the weights that the update will act on."""
    return [
        WeightKind(
            parameter.name,
            parameter.shape,
            ms.float32 if masters and takes_master(parameter) else parameter.dtype,
            parameter.dtype,
        )
        for parameter in parameters
    ]


def _master(parameter, own):
    value = ops.cast(parameter, ms.float32)
    shape = shape_of_rows(parameter.shape, own[1])
    if shape != parameter.shape:
        value = Tensor(value.asnumpy().reshape(-1)[own[0] : sum(own)].reshape(shape))
    return Parameter(value, name=f"master_weight.{parameter.name}", requires_grad=False)


class Entry(NamedTuple):
    """One entry of the state, whole, wherever its rows are kept.

    Attributes:
        name: "moment1.<parameter>", "moment2.", "vhat." or "master_weight.".
        place: of its parameter among the parameters.
        shape: the parameter's.
        dtype: NumPy's.
    """

    name: str
    place: int
    shape: Tuple[int, ...]
    dtype: np.dtype


def entries(names, parameters, amsgrad, masters):
    """All entries of a state, those of other ranks too, in one order on all ranks.

    Args:
        names: the parameters' names when the state was made.
        parameters: what is optimized.
        amsgrad: whether there is vhat.
        masters: whether there are master weights.
    """
    prefixes = ("moment1", "moment2") + (("vhat",) if amsgrad else ())
    found = [
        Entry(
            f"{prefix}.{name}", i, parameter.shape, np.dtype(_dtype_name(moment_dtype(parameter)))
        )
        for prefix in prefixes
        for i, (name, parameter) in enumerate(zip(names, parameters))
    ]
    return found + [
        Entry(f"master_weight.{name}", i, parameter.shape, np.dtype(np.float32))
        for i, (name, parameter) in enumerate(zip(names, parameters))
        if masters and takes_master(parameter)
    ]


def on_host(optimizer):
    """Returns the ids of the Parameters that `use_offload=True` keeps in host memory."""
    if not optimizer.formula.on_host:
        return frozenset()
    return frozenset(id(moment) for moment in (*optimizer.moment1, *optimizer.moment2))


def write(parameter, value, host):
    """Writes into a Parameter's own memory.

    After a step in PyNative mode, Parameter.set_data gives it other memory than the compiled step
    works on (MindSpore 2.10), and all later steps are lost. Likewise, an operator on the device
    moves a Parameter from host memory to the device, and a graph that was compiled before keeps
    using the host memory.

    Args:
        parameter: a Parameter of an optimizer.
        value: what `Tensor` takes, of the same shape.
        host: whether the Parameter stays in host memory; see `on_host`.
    """
    if 0 in parameter.shape:
        return
    assign = P.Assign().set_device("CPU") if host else ops.assign
    assign(parameter, Tensor(value, parameter.dtype))


def _numbers(clips):
    return (
        Parameter(Tensor(1.0, ms.float32), "beta1_power", requires_grad=False),
        Parameter(Tensor(1.0, ms.float32), "beta2_power", requires_grad=False),
        Parameter(Tensor([0], ms.int32), "update_count", requires_grad=False),
        Parameter(Tensor(1.0, ms.float32), "counted_power", requires_grad=False),
        Parameter(Tensor(0.0, ms.float32), "grad_norm", requires_grad=False) if clips else None,
    )


def _dtype_name(dtype):
    return str(dtype).lower()


def _zeros_like(prefix, parameter, own):
    dtype, shape = moment_dtype(parameter), shape_of_rows(parameter.shape, own[1])
    # MindSpore's initializers refuse empty shapes.
    if 0 in shape or shape != parameter.shape:
        moment = Parameter(Tensor(np.zeros(shape), dtype), requires_grad=False)
    else:
        # A clone keeps how the parameter is laid out over devices; the moment must follow it.
        moment = parameter.clone(init="zeros")
        moment.requires_grad = False
        if moment.dtype != dtype:
            moment.set_dtype(dtype)
    moment.name = f"{prefix}.{parameter.name}"
    return moment
