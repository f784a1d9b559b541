"""What a backend can do, as data: callers ask for a capability, never for a backend's name."""

from typing import Any, NamedTuple, Optional, Sequence, Tuple

import mindspore as ms
import numpy as np

from ms_adam.compat import FLOATS, HAS_BFLOAT16, RELEASE, bfloat16
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
        narrow_state: the dtypes, narrower than float32, in which it can keep moments.
        halves: whether it can keep a master weight in its parameter and the trailing bits.
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
    narrow_state: Tuple[str, ...] = ()
    halves: bool = False
    divides_rows: bool = False
    by_address: bool = False
    reads_formulas: bool = False

    def kernel_rate(self, beta: float) -> float:
        """Returns the decay rate that the backend's arithmetic applies for beta."""
        if not self.float32_betas:
            return beta
        # Not up to 1, with which moments would never move.
        return float(min(np.float32(beta), np.nextafter(np.float32(1), np.float32(0))))

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
        missing = missing_dtype(weights, execution.state_dtype, device_target)
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
        narrow = self._obstacle_to_narrow(formula, execution, weights)
        if narrow is not None:
            return narrow
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

    def _obstacle_to_narrow(self, formula, execution, weights):
        kept, halves = execution.state_dtype, execution.halves
        if execution.narrow and kept not in self.narrow_state:
            # Of bfloat16, arithmetic can do what operators lack.
            why = ": no operator of a graph reads the bits of a float32" * bool(self.narrow_state)
            return f"{self.kernel} does not keep moments in {kept}{why}"
        if kept == "bfloat16" and not HAS_BFLOAT16:
            return f"{RELEASE} has no bfloat16"
        if halves and not self.halves:
            return f"{self.kernel} does not keep the halves of a master weight apart"
        for weight in weights:
            if execution.narrow and weight.dtype == ms.float64:
                return (
                    f"state_dtype='{kept}' is for weights that are updated in float32, and "
                    f"'{weight.name}' is {weight.dtype}"
                )
            if halves and weight.parameter_dtype == ms.float16:
                return (
                    "master_weights='split' is for bfloat16 parameters, which are the first half "
                    f"of a float32; '{weight.name}' is Float16, whose exponent has fewer bits"
                )
        if kept == "int8" and formula.lazy:
            return "rows that are skipped would change with the exponent of their block of int8"
        if kept == "int8" and execution.flat:
            return "flat buffers have no place for the exponents of int8"
        by_operators = self.flat_by_row and (execution.narrow or halves)
        if by_operators and (execution.flat or formula.lazy):
            return f"{self.kernel} keeps narrow state neither flat nor for single rows"
        if (execution.narrow or halves) and execution.on_host:
            return "narrow state is not kept on the host of another device"
        return None


def missing_dtype(
    weights: Sequence[WeightKind], state_dtype: str, device_target: str
) -> Optional[str]:
    """Returns why MindSpore cannot hold parameters and moments on a device; None if it can.

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
    if state_dtype == "bfloat16" and bfloat16 in missing:
        return f"MindSpore has no BFloat16 kernels for {device_target}, and state_dtype is bfloat16"
    return None
