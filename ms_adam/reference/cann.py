"""AdamW in the arithmetic of CANN, which computes it on Ascend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ms_adam.reference.adam import Adam, AdamState
from ms_adam.reference.checks import AT_LEAST_0, BELOW_1, array, one_of, within
from ms_adam.reference.method import Method


@dataclass(frozen=True)
class CannAdamW(Method):
    """AdamW as CANN's operator aclnnApplyAdamWV2 rounds it; mint.optim.AdamW calls that operator.

    Every operation is rounded to float32, those on scalars too:

        t = step + 1
        w = (1 - learning_rate * weight_decay) w
        m = m + (1 - beta1) (g - m)
        v = beta2 v + (1 - beta2) g^2
        w = w - learning_rate / (1 - beta1^t) * (m / (1 / sqrt(1 - beta2^t) * sqrt(v) + eps))

    The operator then rounds w, m, v and the AMSGrad maximum to the weight's dtype. The update takes
    the moments before that rounding. Results are float64 arrays of such numbers.

    It is written from the published source and was not run beside the hardware. beta^t is correctly
    rounded here. A power that is one float32 unit off moves the second step by 1.5e-5.

    >>> adam = CannAdamW(learning_rate=0.1)
    >>> w, state = adam.step([1.0], [1.0], adam.init([1.0]))
    >>> float(state.moment2[0])  # 1 - float32(0.999)
    0.0009999871253967285

    Source: the operator's documentation (optim/apply_adam_w_v2/docs/aclnnApplyAdamWV2.md) and its
    kernels for float32 and for 16 bits (op_kernel/apply_adam_w_v2_fp.h and _b16.h), both in
    https://gitcode.com/cann/ops-nn; for the count, state_step of mindspore.mint.optim.AdamW.

    Args:
        learning_rate, beta1, beta2, eps, weight_decay, amsgrad, maximize: as in `Adam`, with
            decoupled decay.
        dtype: of weight, gradient and moments: "float32", "float16" (ties to even) or "bfloat16"
            (ties away from zero).
    """

    learning_rate: float = within(AT_LEAST_0, 1e-3)
    beta1: float = within(BELOW_1, 0.9)
    beta2: float = within(BELOW_1, 0.999)
    eps: float = within(AT_LEAST_0, 1e-8)
    weight_decay: float = within(AT_LEAST_0, 0.0)
    amsgrad: bool = one_of(False, True)
    maximize: bool = one_of(False, True)
    dtype: str = one_of("float32", "float16", "bfloat16")

    def init(self, parameter: ArrayLike) -> AdamState:
        return Adam(amsgrad=self.amsgrad).init(parameter)

    def stored(self, x: ArrayLike) -> np.ndarray:
        """Returns numbers rounded to `dtype`, as float64."""
        single = np.asarray(x, np.float32)
        if self.dtype == "float16":
            single = single.astype(np.float16)
        elif self.dtype == "bfloat16":  # half a unit added to the size, then cut
            bits = (single.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
            single = np.where(np.isfinite(single), bits.view(np.float32), single)
        return array(single)

    def power(self, beta: np.float32, t: int) -> np.float32:
        """Returns beta^t, correctly rounded."""
        return np.float32(float(beta) ** t)

    def update(self, w: np.ndarray, g: np.ndarray, state: AdamState) -> Tuple[Any, AdamState]:
        t, one = state.step + 1, np.float32(1.0)
        numbers = (self.learning_rate, self.beta1, self.beta2, self.eps, self.weight_decay)
        rate, beta1, beta2, eps, decay = map(np.float32, numbers)
        c1, c2 = (one - self.power(beta, t) for beta in (beta1, beta2))
        arrays = (w, -g if self.maximize else g, state.moment1, state.moment2)
        w, g, m, v = (self.stored(x).astype(np.float32) for x in arrays)

        w = w * (one - rate * decay)
        m = m + (g - m) * (one - beta1)
        v = v * beta2 + g * g * (one - beta2)
        second, largest = v, None
        if self.amsgrad:
            second = np.maximum(np.float32(state.vhat), v)
            largest = self.stored(second)
        w = w - m / (np.sqrt(second) * (one / np.sqrt(c2)) + eps) * (rate / c1)
        return self.stored(w), AdamState(t, self.stored(m), self.stored(v), largest)
