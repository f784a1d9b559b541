"""Which MindSpore optimizer belongs to a method of `ms_adam.reference`, and what it computes.

MindSpore does not have every formula. A counterpart therefore carries the method that MindSpore
really computes, with the differences in words; both distances are measured wherever paths are
followed. A method without a counterpart has a reason. Facts are of MindSpore 2.10 on the CPU and
are tested in tests/lab/studies/trajectories/test_counterparts.py.

What rounding alone explains. Both follow the same float32 gradients. In step t MindSpore rounds the
new weight, u |w_t| with u = 2^-24, and its change, which is off by u K_t D: D is the largest change
of a step so far and K_t counts the roundings on the way to it. Nothing amplifies an earlier error,
because the gradients are given; so to first order

    |w_t - shadow_t| <= sum over steps of u (|w|_max + K_t D)

It counts the roundings of each optimizer by itself, so it is tighter than a bound of
`ms_adam.lab.measure`, which knows a step only by its options.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, Callable, Union

from ms_adam import reference

ROUNDING = 2.0**-24  # half the distance of neighbouring float32, relative


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """A MindSpore optimizer.

    Attributes:
        name: Its class, with the options that make it another optimizer.
        arguments: Its arguments besides the parameters.
        computes: The method that it really computes.
        roundings: K_t of step t, counted from 1.
        differences: How its formula differs from the one that was asked for; empty if it does not.
    """

    name: str
    arguments: Mapping[str, Any]
    computes: reference.Method
    roundings: Callable[[int], float]
    differences: str = ""

    @property
    def same_formula(self) -> bool:
        """Whether it computes the method that was asked for."""
        return not self.differences

    def build(self, parameters: list) -> Any:
        """Returns the optimizer of a list of parameters."""
        # Imported here: a config that wants no counterpart does not wait for MindSpore.
        module, _, cls = self.name.partition("(")[0].rpartition(".")
        return getattr(importlib.import_module(module), cls)(parameters, **self.arguments)


@dataclasses.dataclass(frozen=True)
class NoCounterpart:
    """Why a method has no counterpart in MindSpore."""

    reason: str


Found = Union[Counterpart, NoCounterpart]


def counterpart(method: Any) -> Found:
    """Finds the MindSpore optimizer for a method of `ms_adam.reference`."""
    find = _FINDERS.get(type(method))
    if find is None:
        return NoCounterpart("it is no method of ms_adam.reference")
    return find(method)


def _sgd(method: reference.SGD) -> Found:
    # the rate in float32, the product
    arguments = {"learning_rate": method.learning_rate}
    return Counterpart("mindspore.nn.SGD", arguments, method, lambda t: 2)


def _momentum(method: reference.Momentum) -> Found:
    if method.form == "ema":
        return NoCounterpart("MindSpore has no momentum that is a moving average")
    # The velocity: rho in float32, product, sum in each step, and a share rho of it stays.
    return Counterpart(
        "mindspore.nn.Momentum",
        {"learning_rate": method.learning_rate, "momentum": method.rho},
        method,
        lambda t: 2 + 3 * _kept(method.rho, t),
    )


def _nesterov(method: reference.Nesterov) -> Found:
    if method.form == "sutskever":
        return NoCounterpart("nn.SGD(nesterov=True) has the form 'torch'")
    if method.rho == 0:
        return _sgd(reference.SGD(method.learning_rate))
    # Not nn.Momentum(use_nesterov=True), which ignores that argument and computes plain momentum.
    # Roundings as for momentum, and once more rho v + g.
    return Counterpart(
        "mindspore.nn.SGD(nesterov=True)",
        {"learning_rate": method.learning_rate, "momentum": method.rho, "nesterov": True},
        method,
        lambda t: 5 + 3 * _kept(method.rho, t),
    )


def _adagrad(method: reference.AdaGrad) -> Found:
    # Its page has no such argument; its kernel on the CPU has sqrt(s + 1e-8).
    computes = dataclasses.replace(method, eps=1e-8, epsilon="inside")
    # The sum: a square and an addition in each step, all positive; the root halves that. Then
    # epsilon, root, rate, product, quotient.
    return Counterpart(
        "mindspore.nn.Adagrad",
        {"accum": method.initial_accumulator, "learning_rate": method.learning_rate},
        computes,
        lambda t: 5 + (1 + t) / 2,
        "" if method == computes else "its epsilon is 1e-8, inside the root",
    )


def _rmsprop(method: reference.RMSProp) -> Found:
    if method.eps == 0:
        return NoCounterpart("nn.RMSProp refuses an epsilon of 0")
    if method.centered:
        return NoCounterpart(
            "the variance is a difference of float32 numbers near each other: "
            "there is no limit to what its roundings do"
        )
    differences = []
    if method.initial_mean_square != 1:
        differences.append("its mean square starts at 1")
    if method.epsilon != "inside":
        differences.append("its epsilon stands inside the root")
    # The mean square, all positive: 1 - beta in float32 is off by beta / (1 - beta); square, two
    # products, sum. The root halves that. Then root, epsilon, rate, product, quotient.
    return Counterpart(
        "mindspore.nn.RMSProp",
        {"learning_rate": method.learning_rate, "decay": method.beta, "epsilon": method.eps},
        dataclasses.replace(method, initial_mean_square=1.0, epsilon="inside"),
        lambda t: 5 + (4 + method.beta) * _kept(method.beta, t) / 2,
        ", ".join(differences),
    )


# Arguments of ms_adam.AdaMax and ms_adam.Adam that the reference has too, under these names.
_ADAMAX = {
    name: name
    for name in ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "loss_scale", "maximize")
}
_ADAM = {
    **_ADAMAX,
    "bias_correction": "bias_correction",
    "use_nesterov": "nesterov",
    "use_amsgrad": "amsgrad",
}


def _arguments(method: reference.Method, names: dict[str, str]) -> dict[str, Any]:
    return {argument: getattr(method, name) for argument, name in names.items()}


def _adam(method: reference.Adam) -> Found:
    computes, differences = method, ""
    if method.epsilon == "inside":
        computes = dataclasses.replace(method, epsilon="outside")
        differences = "its epsilon stands outside the root"
    if method.centralize:  # a vector has nothing to centralize, in either
        computes = dataclasses.replace(computes, centralize=False)
    # The moments as above: m's error against its largest recent value, v's halved by the root.
    # Then both corrections, epsilon, root, rate, product, quotient, and weight decay's two.
    return Counterpart(
        "ms_adam.AdamW" if method.decoupled else "ms_adam.Adam",
        {**_arguments(method, _ADAM), "epsilon_hat": method.epsilon == "hat"},
        computes,
        lambda t: 10 + 4 * _kept(method.beta1, t) + (4 + method.beta2) * _kept(method.beta2, t) / 2,
        differences,
    )


def _adamax(method: reference.AdaMax) -> Found:
    # m as in Adam. The norm is off by beta2 in float32 and a product in each step in which no
    # gradient exceeds it. Then correction, epsilon, rate, product, quotient, and weight decay's.
    return Counterpart(
        "ms_adam.AdaMax",
        _arguments(method, _ADAMAX),
        dataclasses.replace(method, centralize=False),  # a vector has nothing to centralize
        lambda t: 10 + 4 * _kept(method.beta1, t) + 2 * t,
    )


def _kept(beta: float, t: int) -> float:
    """Returns 1 + beta + ... + beta^(t-1): what remains of an error of 1 made in each step."""
    return (1 - beta**t) / (1 - beta)


_FINDERS: dict[type, Callable[[Any], Found]] = {
    reference.SGD: _sgd,
    reference.Momentum: _momentum,
    reference.Nesterov: _nesterov,
    reference.AdaGrad: _adagrad,
    reference.RMSProp: _rmsprop,
    reference.Adam: _adam,
    reference.AdaMax: _adamax,
}
