"""Which MindSpore optimizer stands beside a method of `ms_adam.reference`, and what it computes.

MindSpore does not have every formula. A counterpart therefore carries the method that MindSpore
really computes, with the differences in words; both distances are measured wherever paths are
followed. What has no counterpart at all has a reason. Facts are of MindSpore 2.10 on the CPU and
are tested in tests/lab/studies/trajectories/test_counterparts.py.

What roundings alone explain. Both follow the same float32 gradients. In step t MindSpore rounds the
new weight, u |w_t| with u = 2^-24, and its change, which is off by u K_t D: D is the largest change
of a step so far and K_t counts the roundings on the way to it. Nothing amplifies an earlier error,
because the gradients are given; so to first order

    |w_t - shadow_t| <= sum over steps of u (|w|_max + K_t D)
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Union

from ms_adam import reference

ROUNDING = 2.0**-24  # half the distance of neighbouring float32, relative


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """A MindSpore optimizer.

    Attributes:
        name: Its class.
        build: Gives the optimizer of a list of parameters.
        computes: The method that it really computes.
        roundings: K_t of step t, counted from 1.
        differences: In what its formula is not the one that was asked for; empty if it is that.
    """

    name: str
    build: Callable[[list], Any]
    computes: reference.Method
    roundings: Callable[[int], float]
    differences: str = ""

    @property
    def same_formula(self) -> bool:
        return not self.differences


@dataclasses.dataclass(frozen=True)
class NoCounterpart:
    """Why nothing of MindSpore's is set beside a method."""

    reason: str


def counterpart(method) -> Union[Counterpart, NoCounterpart]:
    """What MindSpore has for a method of `ms_adam.reference`."""
    find = _FINDERS.get(type(method))
    if find is None:
        return NoCounterpart("it is no method of ms_adam.reference")
    return find(method)


# Each optimizer is imported where it is built: a config that wants none does not wait for
# MindSpore.


def _sgd(method: reference.SGD) -> Counterpart:
    def build(parameters):
        from mindspore import nn

        return nn.SGD(parameters, learning_rate=method.learning_rate)

    # the rate in float32, the product
    return Counterpart("mindspore.nn.SGD", build, method, lambda t: 2)


def _momentum(method: reference.Momentum) -> Union[Counterpart, NoCounterpart]:
    if method.form == "ema":
        return NoCounterpart("MindSpore has no momentum that is a moving average")

    def build(parameters):
        from mindspore import nn

        return nn.Momentum(parameters, method.learning_rate, method.rho)

    # The velocity: rho in float32, product, sum in each step, and a share rho of it stays.
    return Counterpart(
        "mindspore.nn.Momentum", build, method, lambda t: 2 + 3 * _kept(method.rho, t)
    )


def _nesterov(method: reference.Nesterov) -> Union[Counterpart, NoCounterpart]:
    if method.form == "sutskever":
        return NoCounterpart("nn.SGD(nesterov=True) has the form 'torch'")
    if method.rho == 0:
        return _sgd(reference.SGD(method.learning_rate))

    def build(parameters):
        # not nn.Momentum(use_nesterov=True), which ignores that word and computes plain momentum
        from mindspore import nn

        return nn.SGD(
            parameters, learning_rate=method.learning_rate, momentum=method.rho, nesterov=True
        )

    # as momentum, and once more rho v + g
    return Counterpart(
        "mindspore.nn.SGD(nesterov=True)", build, method, lambda t: 5 + 3 * _kept(method.rho, t)
    )


def _adagrad(method: reference.AdaGrad) -> Counterpart:
    def build(parameters):
        from mindspore import nn

        return nn.Adagrad(
            parameters, accum=method.initial_accumulator, learning_rate=method.learning_rate
        )

    # Its page has no such argument, its kernel on the CPU has sqrt(s + 1e-8).
    computes = dataclasses.replace(method, eps=1e-8, epsilon="inside")
    differences = "" if method == computes else "its epsilon is 1e-8, inside the root"
    # The sum: a square and an addition in each step, all positive; the root halves that. Then
    # epsilon, root, rate, product, quotient.
    return Counterpart(
        "mindspore.nn.Adagrad", build, computes, lambda t: 5 + (1 + t) / 2, differences
    )


def _rmsprop(method: reference.RMSProp) -> Union[Counterpart, NoCounterpart]:
    if method.eps == 0:
        return NoCounterpart("nn.RMSProp refuses an epsilon of 0")
    if method.centered:
        return NoCounterpart(
            "the variance is a difference of float32 numbers near each other: "
            "there is no limit to what its roundings do"
        )

    def build(parameters):
        from mindspore import nn

        return nn.RMSProp(
            parameters, learning_rate=method.learning_rate, decay=method.beta, epsilon=method.eps
        )

    computes = dataclasses.replace(method, initial_mean_square=1.0, epsilon="inside")
    differences = []
    if method.initial_mean_square != 1:
        differences.append("its mean square starts at 1")
    if method.epsilon != "inside":
        differences.append("its epsilon stands inside the root")
    # The mean square, all positive: 1 - beta in float32 is off by beta / (1 - beta); square, two
    # products, sum. The root halves that. Then root, epsilon, rate, product, quotient.
    return Counterpart(
        "mindspore.nn.RMSProp",
        build,
        computes,
        lambda t: 5 + (4 + method.beta) * _kept(method.beta, t) / 2,
        ", ".join(differences),
    )


def _adam(method: reference.Adam) -> Counterpart:
    computes, differences = method, ""
    if method.epsilon == "inside":
        computes = dataclasses.replace(method, epsilon="outside")
        differences = "its epsilon stands outside the root"
    if method.centralize:  # of a vector there is nothing to centralize, in either
        computes = dataclasses.replace(computes, centralize=False)
    name = "AdamW" if method.decoupled else "Adam"

    def build(parameters):
        import ms_adam

        return getattr(ms_adam, name)(
            parameters,
            learning_rate=method.learning_rate,
            beta1=method.beta1,
            beta2=method.beta2,
            eps=method.eps,
            epsilon_hat=method.epsilon == "hat",
            bias_correction=method.bias_correction,
            use_nesterov=method.nesterov,
            use_amsgrad=method.amsgrad,
            weight_decay=method.weight_decay,
            loss_scale=method.loss_scale,
        )

    # The moments as above: m's error against its largest value of late, v's halved by the root.
    # Then both corrections, epsilon, root, rate, product, quotient, and weight decay's two.
    return Counterpart(
        f"ms_adam.{name}",
        build,
        computes,
        lambda t: 10 + 4 * _kept(method.beta1, t) + (4 + method.beta2) * _kept(method.beta2, t) / 2,
        differences,
    )


def _kept(beta: float, t: int) -> float:
    """1 + beta + ... + beta^(t-1): what is left of an error of 1 made in each of t steps."""
    return (1 - beta**t) / (1 - beta)


_FINDERS = {
    reference.SGD: _sgd,
    reference.Momentum: _momentum,
    reference.Nesterov: _nesterov,
    reference.AdaGrad: _adagrad,
    reference.RMSProp: _rmsprop,
    reference.Adam: _adam,
}
