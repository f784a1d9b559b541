"""Optimizers of packages that do not import as a whole, on packages made here."""

import sys

import numpy as np
import pytest

from ms_adam.lab.errors import UserError
from ms_adam.lab.studies.identify import identify, partial_import
from ms_adam.lab.targets import find

BROKEN = "raise ImportError('beside this MindSpore')"
OPTIMIZERS = """
from collections import defaultdict

from mindspore import Tensor, ops

from mindnlp.core.constants import RATE


class Optimizer:
    def __init__(self, params, defaults):
        self.param_groups = [{"params": list(params), **defaults}]
        self.state = defaultdict(dict)


class Adam(Optimizer):
    def __init__(self, params, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self.kernel = ops.Adam()

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["exp_avg"], state["exp_avg_sq"] = ops.zeros_like(p), ops.zeros_like(p)
                state["step"] += 1
                beta1, beta2 = group["betas"]
                self.kernel(
                    p, state["exp_avg"], state["exp_avg_sq"], beta1 ** state["step"],
                    beta2 ** state["step"], group["lr"], beta1, beta2, group["eps"],
                    p.grad + group["weight_decay"] * p,
                )
"""


@pytest.fixture
def mindnlp(tmp_path, monkeypatch):
    """A package in the place of mindnlp, whose __init__.py files fail."""
    for name in list(sys.modules):
        if name.split(".")[0] == "mindnlp":
            monkeypatch.delitem(sys.modules, name)
    core = tmp_path / "mindnlp" / "core"
    (core / "optim").mkdir(parents=True)
    for folder in (core.parent, core):
        (folder / "__init__.py").write_text(BROKEN)
    (core / "constants.py").write_text("RATE = 1e-3\n")
    (core / "optim" / "__init__.py").write_text(OPTIMIZERS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in list(sys.modules):
        if name.split(".")[0] == "mindnlp":
            del sys.modules[name]


def test_an_optimizer_is_found_in_a_package_that_does_not_import(mindnlp):
    with pytest.raises(UserError, match="mindnlp cannot be imported: ImportError: beside this"):
        find("mindnlp.core.optim.Adam")
    found = identify("mindnlp.core.optim.Adam")
    assert found.formula == "epsilon-hat" and not found.algorithm1
    answers = {finding.question: finding.answer for finding in found.findings}
    assert answers["powers"] == "no drift"
    assert answers["decay"] == "L2, added to the gradient"
    assert answers["rows"].startswith("refused")  # gradients are those of its parameters


def test_it_is_driven_by_the_gradients_of_its_parameters(mindnlp):
    partial_import.prepare("mindnlp.core.optim:Adam")
    target = find("mindnlp.core.optim:Adam")
    made = target.trial()
    optimizer = target.build([made.parameter(np.ones(2), "float32")], learning_rate=0.5)
    optimizer.step([np.array([1.0, -2.0])])
    np.testing.assert_allclose(optimizer.weights()[0], [0.5, 1.5], rtol=1e-6)
    state = optimizer.state()
    np.testing.assert_allclose(state["moment1"][0], [0.1, -0.2], rtol=1e-6)
    np.testing.assert_allclose(state["moment2"][0], [1e-3, 4e-3], rtol=2e-5)


def test_a_package_that_is_imported_or_missing_stays_as_it_is(mindnlp, monkeypatch):
    (mindnlp / "mindnlp" / "__init__.py").write_text("whole = True")
    assert __import__("mindnlp").whole
    partial_import.prepare("mindnlp.core.optim.Adam")
    assert sys.modules["mindnlp"].whole and "mindnlp.core" not in sys.modules
    monkeypatch.setitem(partial_import.LEFT_OUT, "no_such", ("no_such", "no_such.core"))
    partial_import.prepare("no_such.core.Adam")
    partial_import.prepare("mindspore.nn.Adam")
    assert "no_such" not in sys.modules
