"""The acceptance matrix as data: option x dtype x shape, each beside its float64 reference.

One table serves the tests and `ms-adam validate`. It imports nothing of MindSpore:
`ms_adam.lab.studies.matrix.cells` makes optimizers of it. Python 3.7 syntax, as there.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ms_adam import reference

DTYPES = ("float16", "bfloat16", "float32", "float64")

# 0-d, odd sizes, four axes, and an empty tensor last in the list, where an off-by-one would show.
SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 2, 2), (0, 4))

# Sizes of gradients, step by step: epsilon rules the first, and from 1 on it is a rounding. The
# first is 0 in float16.
SCALES = (1e-8, 1e-4, 1.0, 1.0)


class PerStep(NamedTuple):
    """A learning rate or weight decay that differs from step to step."""

    # The optimizer's argument: a "list", a "tensor" or a "cell" (a LearningRateSchedule for
    # learning rates, a Cell for weight decay).
    kind: str
    values: tuple[float, ...]  # one for each step


class Scaler(NamedTuple):
    """The arguments of an `amp.DynamicLossScaler`, each a power of 2: no rounding comes of them."""

    value: float
    factor: int
    window: int


class Case(NamedTuple):
    """One way to call an optimizer."""

    name: str
    optimizer: str  # "Adam", "AdamW", "AdaMax", "mint.Adam" or "mint.AdamW"
    options: dict[str, Any]  # keyword arguments of the optimizer
    # Keys and values of parameter groups; parameter i is in group i modulo their number. Empty: the
    # parameters are given as a list.
    groups: tuple[dict[str, Any], ...] = ()
    reordered: bool = False  # whether "order_params" turns the order of the parameters round

    @property
    def loss_scale(self) -> float:
        """The fixed loss scale; 1 if there is none."""
        scale = self.options.get("loss_scale", 1.0)
        return 1.0 if isinstance(scale, Scaler) else scale

    @property
    def skips(self) -> bool:
        """Whether a step with a gradient that is not finite changes nothing."""
        scaled = isinstance(self.options.get("loss_scale"), Scaler)
        return scaled or self.options.get("skip_nonfinite", False)


def _case(name, optimizer="Adam", groups=(), reordered=False, **options):
    return Case(name, optimizer, options, groups, reordered)


_ALL = {
    "use_nesterov": True,
    "use_amsgrad": True,
    "weight_decay": 0.1,
    "loss_scale": 3.0,
    "learning_rate": 0.01,
}

CASES = (
    _case("default"),
    _case("large steps", learning_rate=0.1),
    _case("epsilon-hat", epsilon_hat=True),
    _case("large epsilon", eps=1e-2),
    _case("large epsilon-hat", eps=1e-2, epsilon_hat=True),
    _case("no bias correction", bias_correction=False, eps=1e-6),
    _case("beta1 = 0", beta1=0.0),
    _case("beta2 = 0", beta2=0.0),
    _case("short memory", beta1=0.5, beta2=0.9),
    _case("long memory", beta1=0.99, beta2=0.99999),
    _case("nesterov", use_nesterov=True),
    _case("amsgrad", use_amsgrad=True, beta2=0.5),  # v often falls below its maximum
    _case("nesterov amsgrad", use_nesterov=True, use_amsgrad=True),
    _case("weight decay", weight_decay=0.1),
    _case("loss scale", loss_scale=1000.0),
    _case("maximize", maximize=True, weight_decay=0.1),
    _case("locking", use_locking=True),
    _case("lazy rows", use_lazy=True),
    _case("offload", use_offload=True),
    _case("all", epsilon_hat=True, **_ALL),
    _case("AdamW", "AdamW", weight_decay=0.1),
    _case("AdamW default", "AdamW", learning_rate=0.01),
    _case("AdamW all", "AdamW", epsilon_hat=True, **_ALL),
    _case("AdaMax", "AdaMax", weight_decay=0.1, loss_scale=3.0),
    _case("AdaMax large epsilon", "AdaMax", eps=1e-2),
)


# Beyond one formula for all parameters and all steps.
_RATES = (0.1, 0.03, 0.02, 0.3, 0.01)
_DECAYS = (0.1, 0.05, 0.2, 0.0, 0.1)
_SCALER = Scaler(2.0**10, 2, 2)
_TAIL = {"loss_scale": _SCALER, "max_grad_norm": 1.0, "eps": 1e-2, "ema_decay": 0.9}
_GROUPS = ({"lr": 0.02, "weight_decay": 0.0}, {"weight_decay": 0.05}, {})
SCHEMES = (
    _case("learning rates in a list", learning_rate=PerStep("list", _RATES)),
    _case("learning rates in a tensor", learning_rate=PerStep("tensor", _RATES)),
    _case("learning rate schedule", learning_rate=PerStep("cell", _RATES)),
    _case("weight decay schedule", weight_decay=PerStep("cell", _DECAYS)),
    _case(
        "both schedules",
        "AdamW",
        learning_rate=PerStep("cell", _RATES),
        weight_decay=PerStep("cell", _DECAYS),
    ),
    _case("groups", learning_rate=0.1, weight_decay=0.01, reordered=True, groups=_GROUPS),
    _case("groups of AdamW", "AdamW", learning_rate=0.1, weight_decay=0.01, groups=_GROUPS),
    _case(
        "formulas in groups",
        learning_rate=0.05,
        weight_decay=0.01,
        groups=({"betas": (0.5, 0.9), "maximize": True}, {"eps": 1e-2, "lr": 0.01}, {}),
    ),
    _case(
        "schedules in groups",
        learning_rate=0.05,
        groups=({"lr": PerStep("list", _RATES)}, {"weight_decay": PerStep("cell", _DECAYS)}),
    ),
    _case("gradient centralization", weight_decay=0.1, groups=({"grad_centralization": True},)),
    _case("clipping", max_grad_norm=1.0, eps=1e-2),
    _case("clipping and loss scale", max_grad_norm=1.0, eps=1e-2, loss_scale=512.0),
    _case("master weights", master_weights=True),
    _case("master weights all", "AdamW", master_weights=True, **_ALL),
    _case("skipped steps", skip_nonfinite=True, weight_decay=0.1),
    _case("dynamic loss scale", loss_scale=_SCALER),
    _case("averages", ema_decay=0.9),
    _case("averages from the weights", ema_decay=0.9, ema_debias=False),
    _case("averages of lazy rows", ema_decay=0.9, use_lazy=True, skip_nonfinite=True),
    _case("whole tail", "AdamW", **_TAIL),
    _case("whole tail of groups", groups=_GROUPS, use_amsgrad=True, **_TAIL),
    _case("whole tail of master weights", master_weights=True, **_TAIL),
    _case("bfloat16 state", state_dtype="bfloat16"),
    _case("bfloat16 state all", "AdamW", state_dtype="bfloat16", **_ALL),
    _case("bfloat16 state of AdaMax", "AdaMax", state_dtype="bfloat16", eps=1e-2),
    _case("int8 state", state_dtype="int8"),
    _case("int8 state all", "AdamW", state_dtype="int8", **_ALL),
    _case("int8 state of AdaMax", "AdaMax", state_dtype="int8", eps=1e-2),
    _case("master weights in halves", master_weights="split", weight_decay=0.1),
    _case(
        "narrow state of the whole tail",
        "AdamW",
        groups=_GROUPS,
        master_weights="split",
        state_dtype="bfloat16",
        accumulate_steps=2,
        **_TAIL,
    ),
    _case("int8 state of the whole tail", master_weights=True, state_dtype="int8", **_TAIL),
    _case("accumulation", accumulate_steps=3, loss_scale=3.0, weight_decay=0.1),
    _case("accumulation and whole tail", "AdamW", accumulate_steps=2, **_TAIL),
    # The other face hands arguments on to the same update: tests/test_mint.py holds its bits to
    # those of the first. What it does by itself is names, defaults, groups and their order, and
    # the way of the tail's keywords.
    _case(
        "mint: Adam",
        "mint.Adam",
        lr=0.01,
        betas=(0.8, 0.99),
        eps=1e-4,
        weight_decay=0.1,
        amsgrad=True,
        maximize=True,
        use_nesterov=True,
    ),
    _case(
        "mint: groups of AdamW",
        "mint.AdamW",
        lr=0.1,
        groups=(
            {"lr": 0.02, "weight_decay": 0.0},
            {"betas": (0.5, 0.9), "maximize": True},
            {"eps": 1e-2},
        ),
    ),
    _case(
        "mint: whole tail",
        "mint.AdamW",
        groups=_GROUPS,
        accumulate_steps=2,
        master_weights=True,
        **_TAIL,
    ),
    _case(
        "mint: narrow state",
        "mint.AdamW",
        groups=_GROUPS,
        state_dtype="bfloat16",
        master_weights="split",
    ),
)


class Column(NamedTuple):
    """One backend in one layout."""

    name: str
    options: dict[str, Any]  # keyword arguments of the optimizer
    complete: bool  # whether it runs every case, so that refusing one is a fault
    compiled: bool = False  # whether a graph calls the optimizer, and not Python


COLUMNS = (
    Column("fused", {"backend": "fused"}, True),
    Column("fused compiled", {"backend": "fused"}, True, compiled=True),
    Column("fused flat", {"backend": "fused", "flat_state": True}, True),
    Column("primitive", {"backend": "primitive"}, False),
    Column("composite", {"backend": "composite"}, True),
    Column("composite flat", {"backend": "composite", "flat_state": True}, True),
)


def is_refused(case: Case, dtype: str, column: Column) -> bool:
    """Whether a complete column has a reason to refuse a case; docs/narrow.md tells the reasons."""
    options = {**case.options, **column.options}
    state, halves = options.get("state_dtype", "float32"), options.get("master_weights") == "split"
    by_operators, flat = options["backend"] == "composite", options.get("flat_state", False)
    lazy = options.get("use_lazy", False)
    if state == "int8" and (by_operators or flat or lazy):
        return True
    if by_operators and flat and (lazy or halves or state != "float32"):
        return True
    return dtype == "float64" and state != "float32" or dtype == "float16" and halves


_REFERENCE_NAMES = {
    "use_nesterov": "nesterov",
    "use_amsgrad": "amsgrad",
    "lr": "learning_rate",
    "grad_centralization": "centralize",
}
_FORMULA = tuple(field.name for field in dataclasses.fields(reference.Adam))


def _in_the_formula(options):
    """Options under the names of the reference.

    Without those of the execution of a step, of the gradients before it, or of what follows it.
    """
    renamed = {_REFERENCE_NAMES.get(name, name): value for name, value in options.items()}
    if "betas" in renamed:
        renamed["beta1"], renamed["beta2"] = renamed["betas"]
    return {
        name: value
        for name, value in renamed.items()
        if name in _FORMULA and not isinstance(value, Scaler)
    }


def reference_for(case: Case, parameter: int = 0, step: int = 0) -> reference.Method:
    """The float64 reference of a case, for one of its parameters and one step.

    Learning rate and weight decay are rounded to float32 first, as `nn.Optimizer` keeps them.
    `parameter` is its number, which decides the group, and `step` the number of steps already made.
    """
    numbers = {"learning_rate": 1e-3, **_in_the_formula(case.options)}
    if case.options.get("epsilon_hat"):
        numbers["epsilon"] = "hat"
    if case.optimizer.endswith("AdamW"):
        numbers = {"weight_decay": 1e-2, **numbers, "decoupled": True}
    if case.groups:
        numbers.update(_in_the_formula(case.groups[parameter % len(case.groups)]))
    for name in ("learning_rate", "weight_decay"):
        if name in numbers:
            value = numbers[name]
            value = value.values[step] if isinstance(value, PerStep) else value
            numbers[name] = float(np.float32(value))
    return (reference.AdaMax if case.optimizer == "AdaMax" else reference.Adam)(**numbers)


def gradients(shapes, steps: int, scale: Any = 1.0, seed: int = 0, least: float = 0.0) -> list:
    """A list for each step of float64 gradients of normal distribution, one for each shape.

    Args:
        scale: The standard deviation, or one for each step.
        least: Added to every element's size, in units of `scale`.
    """
    rng = np.random.default_rng(seed)

    def draw(size, shape):
        normal = rng.standard_normal(shape)
        return np.asarray(size * (normal + np.copysign(least, normal)))

    return [[draw(size, shape) for shape in shapes] for size in np.broadcast_to(scale, steps)]
