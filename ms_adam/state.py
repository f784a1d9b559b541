"""What Adam remembers between steps, under the names that `mindspore.nn.Adam` gives it.

In one buffer for each parameter, or flat: one for all parameters, with a record of which slice is
whose, so that a checkpoint can be read without the optimizer that wrote it.
"""

import json
from typing import List, NamedTuple, Optional, Tuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops


class State(NamedTuple):
    """The buffers of all parameters, in the order of the parameters.

    Where another process keeps them (`shard_state`), None stands in the tuples; flat buffers hold
    what is kept here alone.

    Attributes:
        moment1: first moments m, each of its parameter's shape; names `moment1.<parameter>`.
        moment2: second moments v, likewise; names `moment2.<parameter>`.
        vhat: the largest second moments, under AMSGrad; else None; names `vhat.<parameter>`.
        beta1_power: beta1^t, float32 of shape (). No update reads it: the corrections come from
            the step count. It is kept so that `nn.Adam` can go on from a checkpoint of ours.
        beta2_power: beta2^t, likewise.
    """

    moment1: Tuple[Optional[Parameter], ...]
    moment2: Tuple[Optional[Parameter], ...]
    vhat: Optional[Tuple[Optional[Parameter], ...]]
    beta1_power: Parameter
    beta2_power: Parameter

    @classmethod
    def zeros(cls, parameters, amsgrad, owned):
        """A state before the first step: float32, or float64 for float64 parameters."""
        def zeros(prefix):
            return tuple(_zeros_like(prefix, parameter) if mine else None
                         for parameter, mine in zip(parameters, owned))
        return cls(zeros("moment1"), zeros("moment2"), zeros("vhat") if amsgrad else None,
                   *_beta_powers())


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
    def of(cls, parameters):
        """Parameters one after the other, each from a multiple of `ALIGNMENT` elements on."""
        ends, offsets = {}, []
        for parameter in parameters:
            dtype = _dtype_name(moment_dtype(parameter))
            offsets.append(ends.get(dtype, 0))
            size = int(np.prod(parameter.shape))
            ends[dtype] = offsets[-1] + -(-size // ALIGNMENT) * ALIGNMENT
        return cls([parameter.name for parameter in parameters],
                   [list(parameter.shape) for parameter in parameters],
                   [_dtype_name(moment_dtype(parameter)) for parameter in parameters], offsets)

    def sizes(self):
        """The length of the buffer of each dtype, float32 first."""
        sizes = {}
        for shape, dtype, offset in zip(self.shapes, self.dtypes, self.offsets):
            end = offset + -(-int(np.prod(shape)) // ALIGNMENT) * ALIGNMENT
            sizes[dtype] = max(sizes.get(dtype, ALIGNMENT), end)
        return dict(sorted(sizes.items()))

    def to_bytes(self):
        """As uint8, to be kept in a checkpoint."""
        return np.frombuffer(json.dumps(self._asdict()).encode(), np.uint8).copy()

    @classmethod
    def from_bytes(cls, array):
        """What `to_bytes` made."""
        return cls(**json.loads(np.asarray(array, np.uint8).tobytes()))

    def split(self, prefix, buffers):
        """The moments of each parameter as {name of the state entry: array}.

        Args:
            prefix: "moment1", "moment2" or "vhat".
            buffers: {dtype: array}.
        """
        entries = {}
        for name, shape, dtype, offset in zip(*self):
            size = int(np.prod(shape))
            entries[f"{prefix}.{name}"] = buffers[dtype][offset:offset + size].reshape(shape)
        return entries


ALIGNMENT = 16  # elements: a cache line of float32
FLAT_LAYOUT = "flat_layout"


def flat_state(parameters, amsgrad):
    """A flat state before the first step, for parameters whose moments are kept here.

    Returns:
        A `State` whose tuples hold one buffer for each dtype of moments, named
        `flat_moment1.<dtype>` and so on; the `FlatLayout`; and the latter as a uint8 Parameter for
        checkpoints.
    """
    layout = FlatLayout.of(parameters)

    def buffers(prefix):
        return tuple(
            Parameter(Tensor(np.zeros(size), getattr(ms, dtype)), f"flat_{prefix}.{dtype}",
                      requires_grad=False) for dtype, size in layout.sizes().items())
    state = State(buffers("moment1"), buffers("moment2"), buffers("vhat") if amsgrad else None,
                  *_beta_powers())
    return state, layout, Parameter(Tensor(layout.to_bytes()), FLAT_LAYOUT, requires_grad=False)


def moment_dtype(parameter):
    """The dtype of a parameter's moments: squares of float16 gradients would vanish in float16."""
    return ms.float64 if parameter.dtype == ms.float64 else ms.float32


def master_weights(parameters, owned):
    """What the update acts on: a float32 copy of each float16 or bfloat16 parameter.

    Returns:
        ParameterTuple. Where the parameter is float32 or wider, or another process updates it, it is
        the parameter itself, else a new one named `master_weight.<parameter>`.
    """
    return ParameterTuple(tuple(
        Parameter(ops.cast(parameter, ms.float32), name=f"master_weight.{parameter.name}",
                  requires_grad=False)
        if mine and parameter.dtype in (ms.float16, ms.bfloat16) else parameter
        for parameter, mine in zip(parameters, owned)))


class Entry(NamedTuple):
    """One entry of the state, wherever it is kept.

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
    found = [Entry(f"{prefix}.{name}", i, parameter.shape,
                   np.dtype(_dtype_name(moment_dtype(parameter))))
             for prefix in prefixes for i, (name, parameter) in enumerate(zip(names, parameters))]
    return found + [Entry(f"master_weight.{name}", i, parameter.shape, np.dtype(np.float32))
                    for i, (name, parameter) in enumerate(zip(names, parameters))
                    if masters and parameter.dtype in (ms.float16, ms.bfloat16)]


def _beta_powers():
    return (Parameter(Tensor(1.0, ms.float32), name, requires_grad=False)
            for name in ("beta1_power", "beta2_power"))


def _dtype_name(dtype):
    return str(dtype).lower()


def _zeros_like(prefix, parameter):
    dtype = moment_dtype(parameter)
    if 0 in parameter.shape:  # MindSpore's initializers refuse empty shapes
        moment = Parameter(Tensor(np.zeros(parameter.shape), dtype), requires_grad=False)
    else:
        # A clone keeps how the parameter is laid out over devices; the moment must follow it.
        moment = parameter.clone(init="zeros")
        moment.requires_grad = False
        if moment.dtype != dtype:
            moment.set_dtype(dtype)
    moment.name = f"{prefix}.{parameter.name}"
    return moment
