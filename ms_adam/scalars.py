"""The scalars of a step: the count of updates, bias corrections, step sizes.

With c1 = 1 - beta1^t and c2 = sqrt(1 - beta2^t), Algorithm 1 of Kingma & Ba 2015 is

    lr * (m / c1) / (sqrt(v) / c2 + eps)  =  (lr * c2 / c1) * m / (sqrt(v) + eps * c2),

so each variant of Adam is one kernel, step_size * m / (sqrt(v) + epsilon), fed with other scalars:

    variant                   step_size / lr   epsilon
    Algorithm 1               c2 / c1          eps * c2
    epsilon-hat (section 2)   c2 / c1          eps
    no bias correction        1                eps
    AdaMax                    1 / c1           eps      (beside the infinity norm, not a root)
"""

import math
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P

_cast, _assign, _reshape, _add = P.Cast(), P.Assign(), P.Reshape(), P.Add()
_equal, _select, _maximum = P.Equal(), P.Select(), P.Maximum()


class UpdateCount(nn.Cell):
    """Counts the updates, which the bias correction needs; `global_step` drives the schedules.

    `mindspore.load_param_into_net` may load a state without `update_count`, of `nn.Adam` or of
    ms_adam 0.1, and a script may reset a state as it would reset one of `nn.Adam`. Then
    `beta2_power` differs from `counted_power`, its value after the last update, and the count is
    `global_step`, or 0 if the power is 1. `load_state` can do better; see `counts`.

    Args:
        numbers: the numbers of a `State`; the counters are read and set.
        dtype: in which the powers are computed.
        leaves_out: whether a step may be left out, which is not counted.

    Inputs:
        global_step: int32 tensor of shape (1,), the steps that schedules have seen.
        made: int32 tensor of shape (1,), 0 if this step is left out, else 1.

    Outputs:
        t, the number of this update, 1 for the first; of `dtype` and shape ().
    """

    def __init__(self, formula, numbers, dtype, leaves_out):
        super().__init__(auto_prefix=False)
        self.leaves_out = leaves_out
        self.update_count, self.counted_power = numbers["update_count"], numbers["counted_power"]
        self.beta1_power, self.has_second = numbers["beta1_power"], "beta2_power" in numbers
        self.last_power = numbers["beta2_power" if self.has_second else "beta1_power"]
        self.half_log_beta1 = Tensor(half_log(formula.beta1), dtype)
        self.half_log_beta2 = Tensor(half_log(formula.beta2), dtype)
        self.none, self.one = Tensor([0], ms.int32), Tensor([1], ms.int32)
        self.unit = Tensor(1.0, dtype)
        self.no_update = Tensor(1.0, ms.float32)
        self.dtype = dtype

    def construct(self, global_step, made):
        power = self.last_power
        loaded = _select(
            _reshape(_equal(power, self.no_update), (1,)),
            self.none,
            _maximum(global_step, self.none),
        )
        ours = _reshape(_equal(power, self.counted_power), (1,))
        count = _add(_select(ours, self.update_count, loaded), self.one)
        t = _cast(_reshape(count, ()), self.dtype)
        power1 = _cast(self.unit - correction(t, self.half_log_beta1, self.unit), ms.float32)
        self.set(self.update_count, count, made)
        self.set(self.beta1_power, power1, made)
        if self.has_second:
            power2 = _cast(self.unit - correction(t, self.half_log_beta2, self.unit), ms.float32)
            self.set(self.last_power, power2, made)
            self.set(self.counted_power, power2, made)
        else:
            self.set(self.counted_power, power1, made)
        return t

    def set(self, number, value, made):
        """Sets a number, unless the step is left out."""
        value = _reshape(value, number.shape)
        if self.leaves_out:
            value = _select(_reshape(_equal(made, self.one), number.shape), value, number)
        return _assign(number, value)


class StepScalars(nn.Cell):
    """Bias corrections, folded into one factor and one epsilon, for each group.

    A kernel that rounds beta to float32 applies other decay rates than the user wrote:
    1 - float32(0.999) is off by 1.3e-5. Its moments then carry the weights of its own rates, so
    the kernel's corrections k1, k2 remove their bias; these need not be c1, c2. With
    mhat = m / k1 and sqrt(vhat) = sqrt(v) / k2 the table above reads

        Algorithm 1               k2 / k1                    eps * k2
        epsilon-hat               k2 / k1                    eps * (k2 / c2)
        no bias correction        (c1 / k1) * (k2 / c2)      eps * (k2 / c2)

    which is the same where the rates are the same.

    Args:
        formulas: a `Formula` for each group.
        kernel_rate: function from a decay rate to the one that the kernel applies.
        dtype: in which the scalars are computed: float64 where the device has it.

    Inputs:
        t: the number of this update, 1 for the first; of `dtype` and shape ().
        learning_rates: float32 tensors of shape (), one for each group.
        weight_decays: the same.

    Outputs:
        Of `dtype` and shape (), one for each group: step sizes; epsilons; the factors of decoupled
        weight decay, 1 - learning_rate * weight_decay; the weight decays, in float32.
    """

    def __init__(self, formulas, kernel_rate, dtype):
        super().__init__(auto_prefix=False)
        # Those that differ in `maximize` alone have the same corrections.
        alike = [formula._replace(maximize=False) for formula in formulas]
        distinct = list(dict.fromkeys(alike))
        self.which = tuple(map(distinct.index, alike))
        self.corrections = nn.CellList(
            [BiasCorrection(formula, kernel_rate, dtype) for formula in distinct], auto_prefix=False
        )
        self.one = Tensor(1.0, dtype)
        self.dtype = dtype

    def construct(self, t, learning_rates, weight_decays):
        factors, folded = (), ()
        for bias_correction in self.corrections:
            factor, epsilon = bias_correction(t)
            factors += (factor,)
            folded += (epsilon,)
        step_sizes, epsilons, decay_factors = (), (), ()
        for i in range(len(self.which)):
            learning_rate = _cast(learning_rates[i], self.dtype)
            step_sizes += (factors[self.which[i]] * learning_rate,)
            decay_factors += (self.one - learning_rate * _cast(weight_decays[i], self.dtype),)
            epsilons += (folded[self.which[i]],)
        return step_sizes, epsilons, decay_factors, weight_decays


class BiasCorrection(nn.Cell):
    """The factor of the learning rate, and epsilon, of one formula; see `StepScalars`."""

    def __init__(self, formula, kernel_rate, dtype):
        super().__init__(auto_prefix=False)
        kernel_beta1, kernel_beta2 = kernel_rate(formula.beta1), kernel_rate(formula.beta2)
        self.bias_correction = formula.bias_correction
        self.epsilon_hat, self.infinity_norm = formula.epsilon_hat, formula.infinity_norm
        self.exact1 = kernel_beta1 == formula.beta1
        self.exact2 = kernel_beta2 == formula.beta2
        self.half_log_beta1 = Tensor(half_log(formula.beta1), dtype)
        self.half_log_beta2 = Tensor(half_log(formula.beta2), dtype)
        self.half_log_kernel_beta1 = Tensor(half_log(kernel_beta1), dtype)
        self.half_log_kernel_beta2 = Tensor(half_log(kernel_beta2), dtype)
        self.eps = Tensor(formula.eps, dtype)
        self.one = Tensor(1.0, dtype)
        self.joins_late, self.begun = formula.begun > 0, Tensor(formula.begun, dtype)

    def construct(self, t):
        if self.joins_late:  # at least 1: a state that was loaded may be from before it joined
            t = _maximum(t - self.begun, self.one)
        c1 = correction(t, self.half_log_beta1, self.one)
        c2 = ops.sqrt(correction(t, self.half_log_beta2, self.one))
        if self.infinity_norm:
            return self.one / c1, self.eps * self.one
        k1, k2 = c1, c2
        if not self.exact1:
            k1 = correction(t, self.half_log_kernel_beta1, self.one)
        if not self.exact2:
            k2 = ops.sqrt(correction(t, self.half_log_kernel_beta2, self.one))

        factor = k2 / k1 if self.bias_correction else (c1 / k1) * (k2 / c2)
        if self.bias_correction and not self.epsilon_hat:
            epsilon = self.eps * k2
        else:
            epsilon = self.eps * (k2 / c2)
        return factor, epsilon


class AverageRates(nn.Cell):
    """How far the averages of the weights move in a step; with d the formula's `ema_decay`.

    Section 7.2 of Kingma & Ba 2015 averages a <- d a + (1 - d) w from 0 on, and divides by 1 - d^t
    what it uses. That quotient is kept here: it moves by (1 - d) / (1 - d^t), at first by 1. With a
    schedule of d, the place of 1 - d^t has the sum s of the weights of all terms,
    s <- d s + (1 - d), from 0 on. With ema_debias=False averages begin at the weights before the
    first update, and move by 1 - d.

    Args:
        numbers: those of a `State`; `ema_weight` is read and set.
        dtype: in which the rates are computed.
        leaves_out: whether a step may be left out.

    Inputs:
        t: the number of this update, 1 for the first; of `dtype` and shape ().
        ema_decays: (), or d of this step, a float32 tensor of shape ().
        made: int32 tensor of shape (1,), 0 if this step is left out, else 1.

    Outputs:
        Two tensors of `dtype` and shape (): the rates before and after the update of the weights;
        () if there are no averages.
    """

    def __init__(self, formula, numbers, dtype, leaves_out):
        super().__init__(auto_prefix=False)
        self.none, self.debias = formula.ema_decay is None, formula.ema_debias
        self.scheduled, self.dtype = formula.averages_by_schedule, dtype
        self.leaves_out, self.sum = leaves_out, numbers.get("ema_weight")
        decay = 0.0 if self.none or self.scheduled else formula.ema_decay
        self.half_log_decay = Tensor(half_log(decay), dtype)
        self.rate = Tensor(1.0 - decay, dtype)
        self.zero, self.one = Tensor(0.0, dtype), Tensor(1.0, dtype)

    def construct(self, t, ema_decays, made):
        if self.none:
            return ()
        rate = self.rate
        if self.scheduled:
            rate = self.one - _cast(ema_decays[0], self.dtype)
        if not self.debias:
            return _cast(_equal(t, self.one), self.dtype), rate
        if not self.scheduled:
            return self.zero, rate / correction(t, self.half_log_decay, self.one)
        before = _cast(self.sum, self.dtype)
        after = before - rate * before + rate
        kept = after
        if self.leaves_out:
            kept = _select(_cast(_reshape(made, ()), ms.bool_), after, before)
        _assign(self.sum, _cast(kept, ms.float64))
        return self.zero, rate / after


def correction(t, half_log_beta, one):
    """Returns 1 - beta^t without cancellation: -expm1(2x) = -2 tanh(x) / (1 - tanh(x)).

    Powers multiplied up step by step drift, and Expm1 is exp(x) - 1 in MindSpore's CPU kernel:
    1.3e-5 off in float32 at beta2 = 0.999.
    """
    tanh = ops.tanh(t * half_log_beta)
    return (tanh + tanh) / (tanh - one)


def half_log(beta: float) -> float:
    """Returns log(beta) / 2, for `correction`."""
    return 0.5 * math.log(beta) if beta > 0.0 else -math.inf


def scalar_dtype(device_target: str) -> Any:
    """Returns the widest float of a device: Ascend has no float64 vector unit."""
    return ms.float32 if device_target == "Ascend" else ms.float64
