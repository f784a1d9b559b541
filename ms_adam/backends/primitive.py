"""MindSpore's own fused Adam kernel, one launch a weight, fed with folded scalars."""

from typing import Optional, Sequence

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.ops import operations as P

from ms_adam.backends.capabilities import Capabilities
from ms_adam.backends.operators import Batch, OperatorBackend
from ms_adam.compat import HAS_AMSGRAD_KERNEL, RELEASE
from ms_adam.options import Execution, Formula
from ms_adam.state import WeightKind

_mul, _assign = P.Mul(), P.Assign()


class PrimitiveBatch(Batch):
    """One launch of `ops.Adam` or `ops.ApplyAdamWithAmsgradV2` for each weight.

    The kernels compute

        w <- w - lr * sqrt(1 - beta2_power) / (1 - beta1_power) * m / (sqrt(v) + epsilon);

    with both powers 0, lr and epsilon are whatever `StepScalars` made of them.
    """

    def __init__(self, formula, execution, *rest):
        super().__init__(formula, execution, *rest)
        if formula.amsgrad:
            self.kernel = P.ApplyAdamWithAmsgradV2(execution.use_locking)
        else:
            self.kernel = P.Adam(execution.use_locking, formula.nesterov)
        self.no_power = Tensor(0.0, ms.float32)
        kernel_rate = Primitive.capabilities.kernel_rate
        self.beta1 = Tensor(kernel_rate(formula.beta1), ms.float32)
        self.beta2 = Tensor(kernel_rate(formula.beta2), ms.float32)

    def update(self, scalars, weight, moment1, moment2, vhat, gradient):
        _, step_size, epsilon, decay_factor, _, _ = scalars
        if self.decoupled_decay:
            _assign(weight, _mul(weight, decay_factor))  # Loshchilov & Hutter 2019, Algorithm 2
        no_power, beta1, beta2 = self.no_power, self.beta1, self.beta2
        rest = (no_power, no_power, step_size, beta1, beta2, epsilon, gradient)
        if self.amsgrad:
            done = self.kernel(weight, moment1, moment2, vhat, *rest)
        else:
            done = self.kernel(weight, moment1, moment2, *rest)
        return ops.depend(weight, done)


class Primitive(OperatorBackend):
    """Runs for float32 weights; arguments, inputs and outputs are those of `OperatorBackend`."""

    capabilities = Capabilities(
        kernel="MindSpore's Adam kernel",
        weight_dtypes=(ms.float32,),
        float32_betas=True,
        infinity_norm=False,
        lazy=False,
        leaves_out=False,
    )

    @classmethod
    def batch_for(cls, formula: Formula, execution: Execution) -> type:
        return PrimitiveBatch

    @classmethod
    def obstacle(
        cls,
        formula: Formula,
        execution: Execution,
        weights: Sequence[WeightKind],
        device_target: str,
    ) -> Optional[str]:
        obstacle = super().obstacle(formula, execution, weights, device_target)
        if obstacle is not None or not formula.amsgrad:
            return obstacle
        for weight in weights:
            if weight.shape == ():
                return f"MindSpore's AMSGrad kernel refuses shape (), which '{weight.name}' has"
        if not HAS_AMSGRAD_KERNEL:
            return (
                f"the AMSGrad kernel of {RELEASE} has one epsilon for all "
                "steps, and later releases have another"
            )
        if formula.nesterov:
            return "MindSpore's AMSGrad kernel has no Nesterov momentum"
        return None
