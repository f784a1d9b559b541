"""Every method against 50 digits; and changed formulas, which that comparison must find."""

import importlib
import inspect
from dataclasses import asdict
from functools import lru_cache

import numpy as np
import pytest
from decimals import CASES, TOLERANCE, decimal_path, distance

# {class: {a piece of its module: what stands there instead}}
MUTANTS = {
    "Adam": {
        "t = state.step + 1": ["t = state.step + 2", "t = 1"],
        "g = g / method.loss_scale": ["g = g * method.loss_scale"],
        "g = g + decay * w": ["g = g - decay * w", "g = g + decay * w / method.loss_scale"],
        "0.0 if self.decoupled else decay": ["decay"],
        "axis=tuple(range(1, g.ndim))": [
            "axis=tuple(range(g.ndim))",
            "axis=tuple(range(g.ndim - 1))",
        ],
        "m = self.beta1 * state.moment1 + (1 - self.beta1) * g": [
            "m = self.beta1 * state.moment1 + g",
            "m = self.beta2 * state.moment1 + (1 - self.beta2) * g",
        ],
        "(1 - self.beta2) * np.square(g)": [
            "(1 - self.beta1) * np.square(g)",
            "(1 - self.beta2) * np.abs(g)",
        ],
        "first = self.beta1 * m + (1 - self.beta1) * g": [
            "first = self.beta1 * m + g",
            "first = m",
        ],
        "np.maximum(state.vhat, v)": [
            "np.minimum(state.vhat, v)",
            "v",
            "np.maximum(state.vhat, v / bias_correction(self.beta2, t))",
        ],
        "AdamState(t, m, v, largest)": ["AdamState(t, m, second, largest)"],
        "correction1 = bias_correction(self.beta1, t)": [
            "correction1 = 1.0",
            "correction1 = bias_correction(self.beta2, t)",
        ],
        "correction2 = bias_correction(self.beta2, t)": ["correction2 = 1.0"],
        "(np.sqrt(second / correction2) + self.eps)": [
            "((np.sqrt(second) + self.eps) / np.sqrt(correction2))",
            "np.sqrt(second / correction2 + self.eps**2)",
        ],
        "np.sqrt(second / correction2 + self.eps)": [
            "np.sqrt((second + self.eps) / correction2)",
            "(np.sqrt(second / correction2) + self.eps)",
        ],
        "math.sqrt(correction2) / correction1 * first": ["correction2 / correction1 * first"],
        "(np.sqrt(second) + self.eps)": ["(np.sqrt(second) + self.eps * correction2**0.5)"],
        "step = step + decay * w": [
            "step = step + decay * (w - self.learning_rate * step)",
            "step = step + decay * w / self.learning_rate",
        ],
        "w - self.learning_rate * step": ["w + self.learning_rate * step"],
    },
    "AdaMax": {
        "state.step + 1": ["state.step + 2"],
        "g, self.weight_decay)": ["g, 0.0)"],
        "(1 - self.beta1) * g": ["g"],
        "np.maximum(self.beta2 * state.moment2, np.abs(g))": [
            "np.maximum(state.moment2, np.abs(g))",
            "np.maximum(self.beta2 * state.moment2, g)",
            "self.beta2 * state.moment2 + (1 - self.beta2) * np.abs(g)",
        ],
        "np.where(u + self.eps == 0, 1.0, u + self.eps)": ["u"],
        "/ bias_correction(self.beta1, t)": ["", "/ bias_correction(self.beta2, t)"],
    },
    "SGD": {
        "w - self.learning_rate * g": [
            "w + self.learning_rate * g",
            "w - self.learning_rate * abs(g)",
        ]
    },
    "Momentum": {
        "t = state.step + 1": ["t = state.step + 2"],
        "velocity - self.learning_rate * g": ["velocity - g"],
        "(1 - self.rho) * g if self.form": ["g if self.form"],
        'if self.form == "ema" else g': ["if self.form else g"],
        "* v / correction": ["* v"],
        "bias_correction(self.rho, t)": ["bias_correction(self.rho**2, t)"],
    },
    "Nesterov": {
        "w + v, ": ["w + self.rho * v, "],
        "velocity - self.learning_rate * g": ["velocity - g"],
        "(g + self.rho * v)": ["(self.rho * v)", "v", "(g + v)"],
    },
    "AdaGrad": {
        "+ np.square(g)": ["+ np.abs(g)"],
        "np.full(np.shape(parameter), self.initial_accumulator)": ["np.zeros(np.shape(parameter))"],
        "np.sqrt(s + self.eps)": ["np.sqrt(s + self.eps**2)"],
        "np.sqrt(s) + self.eps": ["np.sqrt(s)"],
    },
    "RMSProp": {
        "(1 - self.beta) * np.square(g)": ["np.square(g)"],
        "np.full(shape, self.initial_mean_square)": ["np.zeros(shape)"],
        "+ (1 - self.beta) * g": ["+ g"],
        "s - np.square(n)": ["s - n"],
        "np.sqrt(square + self.eps)": ["np.sqrt(square) + self.eps"],
        "root = np.sqrt(square) + self.eps": ["root = np.sqrt(square + self.eps)"],
        "RMSPropState(state.step + 1, s, n)": ["RMSPropState(state.step + 1, square, n)"],
    },
}

right_path = lru_cache(maxsize=None)(decimal_path)


@pytest.mark.parametrize("method", CASES, ids=str)
def test_float64_is_as_near_as_roundings_allow(method):
    assert distance(method, right_path(method)) <= TOLERANCE


@pytest.mark.parametrize(
    "name, old, new",
    [
        (name, old, new)
        for name, pieces in MUTANTS.items()
        for old, replacements in pieces.items()
        for new in replacements
    ],
)
def test_a_changed_formula_is_found(name, old, new):
    module = importlib.import_module(f"ms_adam.reference.{name.lower()}")
    source = inspect.getsource(module)
    assert source.count(old) == 1, "the mutant must say which one piece of the module it changes"
    changed = {"__name__": module.__name__}
    exec(compile(source.replace(old, new), module.__file__, "exec"), changed)
    cases = [case for case in CASES if type(case).__name__ == name]
    with np.errstate(invalid="ignore"):
        far = [distance(changed[name](**asdict(case)), right_path(case)) for case in cases]
    assert not np.max(far) <= 1e6 * TOLERANCE  # NaN, too, is far
