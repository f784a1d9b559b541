"""Optimizers other than Adam, so that they are called by their names, and Adam as CANN rounds it.

Those of `ms_adam.reference` are used as they are; the others are stated here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ms_adam import reference
from ms_adam.reference.correction import bias_correction
from ms_adam.reference.method import Method


@dataclass(frozen=True)
class Relative:
    """A method as a hypothesis."""

    title: str
    method: Method  # as those of `ms_adam.reference`

    rounds_powers = False  # beta^t is exact

    def walk(self, numbers, gradients, start, dtype=np.float64) -> np.ndarray:
        """As `Form.walk`, but with the method's own numbers.

        The method computes in float64; its state and its places are rounded to `dtype`.
        """
        del numbers
        w, places = np.asarray(start, np.float64), []
        state = self.method.init(w)
        with np.errstate(all="ignore"):
            for gradient in gradients:
                w, state = self.method.step(w, gradient, state)
                w = w.astype(dtype).astype(np.float64)
                stored = (
                    x.astype(dtype).astype(np.float64) if isinstance(x, np.ndarray) else x
                    for x in state
                )
                state = state._make(stored) if hasattr(state, "_make") else tuple(stored)
                places.append(w)
        return np.array(places)

    def name(self) -> str:
        return self.title


@dataclass(frozen=True)
class _AdamLike(Method):
    """Two moments, which start from 0, and the count of steps; `update` is the method's own."""

    learning_rate: float
    beta1: float
    beta2: float
    eps: float

    def init(self, parameter):
        return 0, np.zeros(np.shape(parameter)), np.zeros(np.shape(parameter))

    def step(self, parameter, gradient, state, *, learning_rate=None):
        t, m, v = state[0] + 1, *state[1:]
        m = self.beta1 * m + (1 - self.beta1) * gradient
        v = self.moment2(v, gradient)
        update = self.update(t, m, v, gradient)
        return parameter - (learning_rate or self.learning_rate) * update, (t, m, v)

    def moment2(self, v, g):
        return self.beta2 * v + (1 - self.beta2) * np.square(g)

    def update(self, t, m, v, g):
        raise NotImplementedError


class AdaMaxOfTorch(_AdamLike):
    """Kingma & Ba 2015, Algorithm 2, with torch's epsilon: in the maximum and not beside it."""

    def moment2(self, v, g):
        return np.maximum(self.beta2 * v, np.abs(g) + self.eps)

    def update(self, t, m, v, g):
        return m / bias_correction(self.beta1, t) / v


@dataclass(frozen=True)
class NAdam(_AdamLike):
    """Dozat 2016, Algorithm 2, with its schedule of mu, as in torch."""

    momentum_decay: float = 4e-3

    def update(self, t, m, v, g):
        mu = [self.beta1 * (1 - 0.5 * 0.96 ** (k * self.momentum_decay)) for k in range(1, t + 2)]
        product = math.prod(mu[:-1])
        mhat = mu[-1] * m / (1 - product * mu[-1]) + (1 - mu[-2]) * g / (1 - product)
        return mhat / (np.sqrt(v / bias_correction(self.beta2, t)) + self.eps)


@dataclass(frozen=True)
class RAdam(_AdamLike):
    """Liu et al. 2020, "On the variance of the adaptive learning rate and beyond", Algorithm 2.

    Epsilon, which it lacks, stands as in torch and MindSpore: before the correction.
    """

    def update(self, t, m, v, g):
        mhat = m / bias_correction(self.beta1, t)
        correction = bias_correction(self.beta2, t)
        limit = 2 / (1 - self.beta2) - 1
        rho = limit - 2 * t * self.beta2**t / correction
        if rho <= 5:
            return mhat
        rect = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)
        return mhat * math.sqrt(rect * correction) / (np.sqrt(v) + self.eps)


def cann(values: dict[str, float]) -> list[Relative]:
    """Adam in the arithmetic of CANN, for each dtype of the weight."""
    numbers = [values[name] for name in ("learning_rate", "beta1", "beta2", "eps")]
    title = "Algorithm 1 in CANN's arithmetic"
    return [
        Relative(title + words, reference.CannAdamW(*numbers, dtype=words[2:] or "float32"))
        for words in ("", ", float16", ", bfloat16")
    ]


def relatives(values: dict[str, float]) -> list[Relative]:
    """Hypotheses for an optimizer with these numbers.

    Args:
        values: learning_rate, beta1, beta2, eps, and those of momentum, rho, accumulator and
            momentum_decay that it has.
    """
    given = rate, beta1, beta2, eps = [
        values[name] for name in ("learning_rate", "beta1", "beta2", "eps")
    ]
    momentum, rho = values.get("momentum", beta1), values.get("rho", beta2)
    found = {"SGD": reference.SGD(rate)}
    if momentum:
        averaged = "SGD with averaged gradients"
        found["SGD with momentum"] = reference.Momentum(rate, momentum)
        found["SGD with Nesterov momentum"] = reference.Nesterov(rate, momentum)
        found[averaged] = reference.Momentum(rate, momentum, form="ema")
        found[f"{averaged}, bias corrected"] = reference.Momentum(
            rate, momentum, form="ema", bias_correction=True
        )
    inside = ", epsilon inside the root"
    found["AdaGrad"] = reference.AdaGrad(rate, eps)
    found[f"AdaGrad{inside}"] = reference.AdaGrad(rate, eps, "inside")
    initial = values.get("accumulator", 0.0)
    if initial:  # beside it the place of epsilon does not show
        title = f"AdaGrad (sum starts at {initial:g})"
        found[title] = reference.AdaGrad(rate, eps, "outside", initial)
    for centered in (False, True):
        title = "RMSProp" + (", centered" if centered else "")
        found[title] = reference.RMSProp(rate, rho, eps, "outside", centered)
        found[f"{title}{inside}"] = reference.RMSProp(rate, rho, eps, "inside", centered)
        found[f"{title}, mean square starts at 1"] = reference.RMSProp(
            rate, rho, eps, "inside", centered, 1.0
        )
    found["AdaMax"] = reference.AdaMax(*given)
    found["AdaMax, epsilon in the maximum"] = AdaMaxOfTorch(*given)
    found["NAdam"] = NAdam(*given, values.get("momentum_decay", 4e-3))
    if beta2 > 0.6:  # below, its limit is too short for the rectification to have a value
        found["RAdam"] = RAdam(*given)
    return [Relative(title, method) for title, method in found.items()]
