"""MindSpore's own fused Adam kernel, one launch a weight, fed with folded scalars."""

import mindspore as ms
import numpy as np
from mindspore import Tensor
from mindspore.ops import operations as P

from ms_adam.backends.operators import Batch, OperatorBackend, missing_dtype
from ms_adam.compat import HAS_AMSGRAD_KERNEL, RELEASE

_mul, _assign = P.Mul(), P.Assign()


class PrimitiveBatch(Batch):
    """One launch of `ops.Adam` or `ops.ApplyAdamWithAmsgradV2` for each weight.

    The kernels compute

        w <- w - lr * sqrt(1 - beta2_power) / (1 - beta1_power) * m / (sqrt(v) + epsilon);

    with both powers 0, lr and epsilon are whatever `StepScalars` made of them.
    """

    def __init__(self, formula, *rest):
        super().__init__(formula, *rest)
        if formula.amsgrad:
            self.kernel = P.ApplyAdamWithAmsgradV2(formula.use_locking)
        else:
            self.kernel = P.Adam(formula.use_locking, formula.nesterov)
        self.no_power = Tensor(0.0, ms.float32)
        self.beta1 = Tensor(formula.beta1, ms.float32)
        self.beta2 = Tensor(formula.beta2, ms.float32)

    def adam(self, step_size, retained, epsilon, weight, moment1, moment2, vhat, gradient):
        if self.shrunk:
            _assign(weight, _mul(weight, retained))  # Loshchilov & Hutter 2019, Algorithm 2
        if self.amsgrad:
            self.kernel(
                weight,
                moment1,
                moment2,
                vhat,
                self.no_power,
                self.no_power,
                step_size,
                self.beta1,
                self.beta2,
                epsilon,
                gradient,
            )
        else:
            self.kernel(
                weight,
                moment1,
                moment2,
                self.no_power,
                self.no_power,
                step_size,
                self.beta1,
                self.beta2,
                epsilon,
                gradient,
            )
        return True


class Primitive(OperatorBackend):
    """Runs for float32 weights; arguments, inputs and outputs are those of `OperatorBackend`."""

    @classmethod
    def batch_for(cls, formula):
        return PrimitiveBatch

    @classmethod
    def obstacle(cls, formula, weights, device_target):
        missing = missing_dtype(weights, device_target)
        if missing is not None:
            return missing
        for weight in weights:
            if weight.dtype != ms.float32:
                return (
                    f"MindSpore's Adam kernel is exact enough for float32 weights alone, and "
                    f"'{weight.name}' is {weight.dtype} (master_weights=True gives float16 "
                    f"and bfloat16 parameters float32 weights)"
                )
            if formula.amsgrad and weight.shape == ():
                return f"MindSpore's AMSGrad kernel refuses shape (), which '{weight.name}' has"
        if formula.amsgrad and not HAS_AMSGRAD_KERNEL:
            return (
                f"the AMSGrad kernel of {RELEASE} has one epsilon for all "
                "steps, and later releases have another"
            )
        if formula.on_host:
            return "MindSpore's Adam kernel has weights and moments in one place"
        if formula.lazy:
            return "MindSpore's Adam kernel updates whole tables"
        if formula.amsgrad and formula.nesterov:
            return "MindSpore's AMSGrad kernel has no Nesterov momentum"
        return None

    @staticmethod
    def kernel_rate(beta):
        """The kernel takes beta in float32 and subtracts it from 1."""
        return float(np.float32(beta))
