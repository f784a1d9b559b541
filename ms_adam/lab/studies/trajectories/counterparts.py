"""Which MindSpore optimizer belongs to a method of `ms_adam.reference`, and what it computes.

MindSpore does not have every formula. A counterpart therefore carries the method that MindSpore
really computes, with the differences in words; both distances are measured wherever paths are
followed. A method without a counterpart has a reason. Facts are of MindSpore 2.10 on the CPU and
are tested in tests/lab/studies/trajectories/test_counterparts.py.

What rounding alone explains is `measure.path_bounds`, with the roundings that each optimizer makes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, Union

from ms_adam import reference
from ms_adam.lab.measure import memory


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """A MindSpore optimizer."""

    name: str  # its class, with the options that make it another optimizer
    arguments: Mapping[str, Any]  # besides the parameters
    computes: reference.Method  # what it really computes
    roundings: Callable[[int], float]  # those of step t, counted from 1; see `path_bounds`
    differences: str = ""  # of its formula to the one that was asked for

    def build(self, parameters: list) -> Any:
        """Returns the optimizer of a list of parameters."""
        # Imported here: a config that wants no counterpart does not wait for MindSpore.
        module, _, cls = self.name.partition("(")[0].rpartition(".")
        return getattr(importlib.import_module(module), cls)(parameters, **self.arguments)


class _Row(NamedTuple):
    """The `Counterpart` of any method of a class, as functions of the method."""

    name: str
    arguments: Callable[[Any], dict[str, Any]]
    roundings: Callable[[Any, int], float]
    # What it lacks: an attribute of the method; the value in whose place it has another, or None
    # for any; that other value; the difference in words.
    instead: tuple[tuple[str, Any, Any, str], ...] = ()


# Arguments of ms_adam.AdaMax that the reference has under the same names.
_SHARED = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "loss_scale", "maximize")
_ONE_EPSILON = "its epsilon is 1e-8, inside the root"
_VECTOR = ("centralize", None, False, "")  # a vector has nothing to centralize, in either
_ROWS = {
    # The rate in float32, the product.
    reference.SGD: _Row(
        "mindspore.nn.SGD", lambda m: {"learning_rate": m.learning_rate}, lambda m, t: 2
    ),
    # The velocity: rho in float32, product, sum in each step, and a share rho of it stays.
    reference.Momentum: _Row(
        "mindspore.nn.Momentum",
        lambda m: {"learning_rate": m.learning_rate, "momentum": m.rho},
        lambda m, t: 2 + 3 * memory(m.rho, t),
    ),
    # Not nn.Momentum(use_nesterov=True), which ignores that argument and computes plain momentum.
    # Roundings as for momentum, and once more rho v + g.
    reference.Nesterov: _Row(
        "mindspore.nn.SGD(nesterov=True)",
        lambda m: {"learning_rate": m.learning_rate, "momentum": m.rho, "nesterov": True},
        lambda m, t: 5 + 3 * memory(m.rho, t),
    ),
    # Its page has no argument for epsilon; its kernel on the CPU has sqrt(s + 1e-8).
    # The sum: a square and an addition in each step, all positive; the root halves that. Then
    # epsilon, root, rate, product, quotient.
    reference.AdaGrad: _Row(
        "mindspore.nn.Adagrad",
        lambda m: {"accum": m.initial_accumulator, "learning_rate": m.learning_rate},
        lambda m, t: 5 + (1 + t) / 2,
        (("eps", None, 1e-8, _ONE_EPSILON), ("epsilon", None, "inside", _ONE_EPSILON)),
    ),
    # The mean square, all positive: 1 - beta in float32 is off by beta / (1 - beta); square, two
    # products, sum. The root halves that. Then root, epsilon, rate, product, quotient.
    reference.RMSProp: _Row(
        "mindspore.nn.RMSProp",
        lambda m: {"learning_rate": m.learning_rate, "decay": m.beta, "epsilon": m.eps},
        lambda m, t: 5 + (4 + m.beta) * memory(m.beta, t) / 2,
        (
            ("initial_mean_square", None, 1.0, "its mean square starts at 1"),
            ("epsilon", None, "inside", "its epsilon stands inside the root"),
        ),
    ),
    # The moments as above: m's error against its largest recent value, v's halved by the root.
    # Then both corrections, epsilon, root, rate, product, quotient, and weight decay's two.
    reference.Adam: _Row(
        "ms_adam.Adam",
        lambda m: {
            **{name: getattr(m, name) for name in _SHARED},
            "bias_correction": m.bias_correction,
            "use_nesterov": m.nesterov,
            "use_amsgrad": m.amsgrad,
            "epsilon_hat": m.epsilon == "hat",
        },
        lambda m, t: 10 + 4 * memory(m.beta1, t) + (4 + m.beta2) * memory(m.beta2, t) / 2,
        (_VECTOR, ("epsilon", "inside", "outside", "its epsilon stands outside the root")),
    ),
    # m as in Adam. The norm is off by beta2 in float32 and a product in each step in which no
    # gradient exceeds it. Then correction, epsilon, rate, product, quotient, and weight decay's.
    reference.AdaMax: _Row(
        "ms_adam.AdaMax",
        lambda m: {name: getattr(m, name) for name in _SHARED},
        lambda m, t: 10 + 4 * memory(m.beta1, t) + 2 * t,
        (_VECTOR,),
    ),
}
_LACKING = (  # a method, its attribute and value, and why there is no counterpart
    (reference.Momentum, "form", "ema", "MindSpore has no momentum that is a moving average"),
    (reference.Nesterov, "form", "sutskever", "nn.SGD(nesterov=True) has the form 'torch'"),
    (reference.RMSProp, "eps", 0, "nn.RMSProp refuses an epsilon of 0"),
    (
        *(reference.RMSProp, "centered", True),
        "the variance is a difference of float32 numbers near each other: "
        "there is no limit to what its roundings do",
    ),
)


def counterpart(method: Any) -> Union[Counterpart, str]:
    """Finds the MindSpore optimizer for a method of `ms_adam.reference`, or why there is none."""
    for cls, attribute, value, reason in _LACKING:
        if type(method) is cls and getattr(method, attribute) == value:
            return reason
    if type(method) is reference.Nesterov and method.rho == 0:
        method = reference.SGD(method.learning_rate)
    row = _ROWS.get(type(method))
    if row is None:
        return "it is no method of ms_adam.reference"
    changes, differences = {}, {}
    for attribute, of, value, words in row.instead:
        asked = getattr(method, attribute)
        if asked != value and of in (None, asked):
            changes[attribute] = value
            differences[words] = True
    return Counterpart(
        "ms_adam.AdamW" if getattr(method, "decoupled", False) else row.name,
        row.arguments(method),
        dataclasses.replace(method, **changes),
        functools.partial(row.roundings, method),
        ", ".join(filter(None, differences)),
    )
