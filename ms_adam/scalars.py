"""What changes from step to step but not from element to element.

With c1 = 1 - beta1^t and c2 = sqrt(1 - beta2^t), Algorithm 1 of Kingma & Ba 2015 is

    lr * (m / c1) / (sqrt(v) / c2 + eps)  =  (lr * c2 / c1) * m / (sqrt(v) + eps * c2),

so each variant of Adam is one kernel, step_size * m / (sqrt(v) + epsilon), fed with other scalars:

    variant                   step_size / lr   epsilon
    Algorithm 1               c2 / c1          eps * c2
    epsilon-hat (section 2)   c2 / c1          eps
    no bias correction        1                eps
"""

import math

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P

_cast = P.Cast()


class StepScalars(nn.Cell):
    """Bias corrections, folded into one factor and one epsilon.

    A kernel that rounds beta to float32 applies other decay rates than the user wrote:
    1 - float32(0.999) is off by 1.3e-5. Its moments then carry the weights of its own rates, so
    they are freed from bias by the kernel's corrections k1, k2, which need not be c1, c2. With
    mhat = m / k1 and sqrt(vhat) = sqrt(v) / k2 the table above reads

        Algorithm 1               k2 / k1                    eps * k2
        epsilon-hat               k2 / k1                    eps * (k2 / c2)
        no bias correction        (c1 / k1) * (k2 / c2)      eps * (k2 / c2)

    which is the same where the rates are the same.

    Args:
        formula: a `Formula`.
        kernel_beta1: the decay rate of the first moment that the kernel applies.
        kernel_beta2: the same for the second moment.
        dtype: what the scalars are computed in: float64 where the device has it.

    Inputs:
        step: int32 tensor of shape (1,): t, 1 in the first step.
        learning_rates: float32 tensors of shape (), one for each group.
        weight_decays: the same.

    Outputs:
        Of `dtype` and shape (): step sizes, a tuple of one for each group; what decoupled weight
        decay leaves of a weight, 1 - learning_rate * weight_decay, likewise; epsilon; beta1^t;
        beta2^t.
    """

    def __init__(self, formula, kernel_beta1, kernel_beta2, dtype):
        super().__init__(auto_prefix=False)
        self.bias_correction = formula.bias_correction
        self.epsilon_hat = formula.epsilon_hat
        self.exact1 = kernel_beta1 == formula.beta1
        self.exact2 = kernel_beta2 == formula.beta2
        self.half_log_beta1 = Tensor(_half_log(formula.beta1), dtype)
        self.half_log_beta2 = Tensor(_half_log(formula.beta2), dtype)
        self.half_log_kernel_beta1 = Tensor(_half_log(kernel_beta1), dtype)
        self.half_log_kernel_beta2 = Tensor(_half_log(kernel_beta2), dtype)
        self.eps = Tensor(formula.eps, dtype)
        self.one = Tensor(1.0, dtype)
        self.dtype = dtype

    def construct(self, step, learning_rates, weight_decays):
        t = _cast(ops.reshape(step, ()), self.dtype)
        correction1 = self._correction(t, self.half_log_beta1)
        correction2 = self._correction(t, self.half_log_beta2)
        c1, c2 = correction1, ops.sqrt(correction2)
        k1, k2 = c1, c2
        if not self.exact1:
            k1 = self._correction(t, self.half_log_kernel_beta1)
        if not self.exact2:
            k2 = ops.sqrt(self._correction(t, self.half_log_kernel_beta2))

        if self.bias_correction:
            factor = k2 / k1
        else:
            factor = (c1 / k1) * (k2 / c2)
        if self.bias_correction and not self.epsilon_hat:
            epsilon = self.eps * k2
        else:
            epsilon = self.eps * (k2 / c2)

        step_sizes, retained = (), ()
        for learning_rate, weight_decay in zip(learning_rates, weight_decays):
            learning_rate = _cast(learning_rate, self.dtype)
            step_sizes += (factor * learning_rate,)
            retained += (self.one - learning_rate * _cast(weight_decay, self.dtype),)
        return step_sizes, retained, epsilon, self.one - correction1, self.one - correction2

    def _correction(self, t, half_log_beta):
        """1 - beta^t without cancellation: -expm1(2x) = -2 tanh(x) / (1 - tanh(x)).

        Not from powers multiplied up step by step, which drift, and not from Expm1, which
        MindSpore's CPU kernel computes as exp(x) - 1: 1.3e-5 off in float32 at beta2 = 0.999.
        """
        tanh = ops.tanh(t * half_log_beta)
        return (tanh + tanh) / (tanh - self.one)


def _half_log(beta):
    return 0.5 * math.log(beta) if beta > 0.0 else -math.inf


def scalar_dtype(device_target):
    """The widest float in which `device_target` computes: Ascend has no float64 vector unit."""
    return ms.float32 if device_target == "Ascend" else ms.float64
