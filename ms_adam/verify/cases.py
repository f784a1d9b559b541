"""The acceptance matrix as data: option x dtype x shape, each beside its float64 reference.

One table serves the tests, `ms-adam validate` and the benchmark.
"""

from typing import Any, Dict, NamedTuple

import numpy as np

from ms_adam import reference

DTYPES = ("float16", "bfloat16", "float32", "float64")

# 0-d, odd sizes, four axes, and an empty tensor last in the list, where an off-by-one would show.
SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 2, 2), (0, 4))


class Case(NamedTuple):
    """One way to call an optimizer.

    Attributes:
        name: of the case.
        optimizer: "Adam" or "AdamW".
        options: keyword arguments of the optimizer.
        expected: keyword arguments of `reference.Adam` for the same formula.
    """

    name: str
    optimizer: str
    options: Dict[str, Any]
    expected: Dict[str, Any]


def _case(name, optimizer="Adam", expected=None, **options):
    translated = {_REFERENCE_NAMES.get(key, key): value for key, value in options.items()}
    if translated.pop("epsilon_hat", False):
        translated["epsilon"] = "hat"
    if optimizer == "AdamW":
        translated.setdefault("weight_decay", 1e-2)
        translated["decoupled"] = True
    translated.pop("use_locking", None)
    return Case(name, optimizer, options, {**translated, **(expected or {})})


_REFERENCE_NAMES = {"use_nesterov": "nesterov", "use_amsgrad": "amsgrad"}

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
    _case("amsgrad", use_amsgrad=True),
    _case("nesterov amsgrad", use_nesterov=True, use_amsgrad=True),
    _case("weight decay", weight_decay=0.1),
    _case("loss scale", loss_scale=1000.0),
    _case("locking", use_locking=True),
    _case("all", use_nesterov=True, use_amsgrad=True, weight_decay=0.1, loss_scale=3.0,
          epsilon_hat=True, learning_rate=0.01),
    _case("AdamW", "AdamW", weight_decay=0.1),
    _case("AdamW default", "AdamW", learning_rate=0.01),
    _case("AdamW all", "AdamW", use_nesterov=True, use_amsgrad=True, weight_decay=0.1,
          loss_scale=3.0, epsilon_hat=True, learning_rate=0.01),
)


def reference_for(case):
    """The float64 reference of a case.

    Learning rate and weight decay are rounded to float32 first, as `nn.Optimizer` keeps them.
    """
    numbers = {"learning_rate": 1e-3, **case.expected}
    for name in ("learning_rate", "weight_decay"):
        if name in numbers:
            numbers[name] = float(np.float32(numbers[name]))
    return reference.Adam(**numbers)


def gradients(shapes, steps, scale=1.0, seed=0):
    """Gradients of normal distribution for some steps.

    Returns:
        A list of `steps` lists of float64 arrays.
    """
    rng = np.random.default_rng(seed)
    return [[np.asarray(scale * rng.standard_normal(shape)) for shape in shapes]
            for _ in range(steps)]
