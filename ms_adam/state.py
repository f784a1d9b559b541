"""What Adam remembers between steps, under the names that `mindspore.nn.Adam` gives it."""

from typing import NamedTuple, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, ops


class State(NamedTuple):
    """The buffers of all parameters, in the order of the parameters.

    Attributes:
        moment1: first moments m, each of its parameter's shape; names `moment1.<parameter>`.
        moment2: second moments v, likewise; names `moment2.<parameter>`.
        vhat: the largest second moments, under AMSGrad; else None; names `vhat.<parameter>`.
        beta1_power: beta1^t, float32 of shape (). No update reads it: the corrections come from
            the step count. It is kept so that `nn.Adam` can go on from a checkpoint of ours.
        beta2_power: beta2^t, likewise.
    """

    moment1: ParameterTuple
    moment2: ParameterTuple
    vhat: Optional[ParameterTuple]
    beta1_power: Parameter
    beta2_power: Parameter

    @classmethod
    def zeros(cls, parameters, amsgrad):
        """A state before the first step: float32, or float64 for float64 parameters."""
        return cls(
            moment1=_zeros("moment1", parameters),
            moment2=_zeros("moment2", parameters),
            vhat=_zeros("vhat", parameters) if amsgrad else None,
            beta1_power=Parameter(Tensor(1.0, ms.float32), "beta1_power", requires_grad=False),
            beta2_power=Parameter(Tensor(1.0, ms.float32), "beta2_power", requires_grad=False))


def moment_dtype(parameter):
    """The dtype of a parameter's moments: squares of float16 gradients would vanish in float16."""
    return ms.float64 if parameter.dtype == ms.float64 else ms.float32


def master_weights(parameters):
    """What the update acts on: a float32 copy of each float16 or bfloat16 parameter.

    Returns:
        ParameterTuple. Where the parameter is float32 or wider it is the parameter itself, else a
        new one named `master_weight.<parameter>`.
    """
    return ParameterTuple(tuple(
        Parameter(ops.cast(parameter, ms.float32), name=f"master_weight.{parameter.name}",
                  requires_grad=False)
        if parameter.dtype in (ms.float16, ms.bfloat16) else parameter
        for parameter in parameters))


def _zeros(prefix, parameters):
    return ParameterTuple(tuple(_zeros_like(prefix, parameter) for parameter in parameters))


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
