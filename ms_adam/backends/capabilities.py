"""What a backend can do, as data: callers ask for a capability, never for a backend's name."""

from typing import Any, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ms_adam.compat import FLOATS, bfloat16
from ms_adam.options import Execution, Formula
from ms_adam.state import WeightKind, dtype_name

# MindSpore 2.10.0's GPU plugin has no bfloat16 kernel of any operator, not even of Cast or Assign.
_MISSING_DTYPES = {"GPU": (bfloat16,)}


class Capabilities(NamedTuple):
    """The declaration of a backend.

    Attributes:
        kernel: the subject of its refusals.
        devices: the only devices it runs on; None: any that has the dtypes.
        weight_dtypes: the only dtypes of weights it updates; None: any float.
        float32_betas: whether it rounds decay rates to float32, and subtracts them from 1 then.
        infinity_norm: whether it can compute AdaMax.
        lazy: whether it can skip rows without a gradient.
        leaves_out: whether it can leave the weights as they are in a call: its gradients are not
            finite, or they are only accumulated.
        offload: whether it can update moments in the memory of the host of another device.
        flat_state: whether it can have the moments of all parameters in few buffers.
        flat_by_row: whether each of these has the moments of a row of `Groups.rows`, and not those
            of one dtype.
        divides_rows: whether it can update some rows of a parameter, so that ranks have equal
            shares; its parameters are then exchanged by a kernel of its own, also within a
            compiled step.
        by_address: whether it can be called with the addresses of tensors, without a graph.
        reads_formulas: whether it reads the numbers of the formulas in each step, so that a
            compiled step follows when they change.
    """

    kernel: str
    devices: Optional[Tuple[str, ...]] = None
    weight_dtypes: Optional[Tuple[Any, ...]] = None
    float32_betas: bool = False
    infinity_norm: bool = True
    lazy: bool = True
    leaves_out: bool = True
    offload: bool = False
    flat_state: bool = False
    flat_by_row: bool = False
    divides_rows: bool = False
    by_address: bool = False
    reads_formulas: bool = False

    def kernel_rate(self, beta: float) -> float:
        """Returns the decay rate that the backend's arithmetic applies for beta."""
        return float(np.float32(beta)) if self.float32_betas else beta

    def obstacle(
        self,
        formula: Formula,
        execution: Execution,
        weights: Sequence[WeightKind],
        device_target: str,
    ) -> Optional[str]:
        """Returns why a backend with these capabilities cannot run; None if it can."""
        if self.devices is not None and device_target not in self.devices:
            return f"{self.kernel} is for the {' and '.join(self.devices)}, not for {device_target}"
        missing = missing_dtype(weights, device_target)
        if missing is not None:
            return missing
        dtypes = FLOATS if self.weight_dtypes is None else self.weight_dtypes
        for weight in weights:
            if weight.dtype not in dtypes:
                names = " and ".join(map(dtype_name, dtypes))
                return (
                    f"{self.kernel} is exact enough for {names} weights only, and "
                    f"'{weight.name}' is {weight.dtype} (master_weights=True gives float16 and "
                    "bfloat16 parameters float32 weights)"
                )
        if execution.on_host and not self.offload:
            return f"{self.kernel} has weights and moments in one place"
        if formula.infinity_norm and not self.infinity_norm:
            return f"{self.kernel} has no infinity norm"
        if formula.lazy and not self.lazy:
            return f"{self.kernel} updates whole tables"
        if formula.lazy and execution.flat and self.flat_by_row:
            return "rows that are skipped need moments of their parameter's shape, not flat ones"
        if execution.leaves_out and not self.leaves_out:
            return f"{self.kernel} cannot leave a step out"
        return None


def missing_dtype(weights: Sequence[WeightKind], device_target: str) -> Optional[str]:
    """Returns why MindSpore cannot hold the parameters of `weights` on a device; None if it can.

    Master weights do not help: their parameters are set, and read by the network, on the device.
    """
    missing = _MISSING_DTYPES.get(device_target, ())
    for weight in weights:
        if weight.parameter_dtype in missing:
            names = [dtype_name(dtype) for dtype in FLOATS if dtype not in missing]
            return (
                f"MindSpore has no {weight.parameter_dtype} kernels for {device_target}, and "
                f"the parameter '{weight.name}' is {weight.parameter_dtype}: it must be "
                f"{', '.join(names[:-1])} or {names[-1]} there"
            )
    return None
