"""The examples in the docstrings of ms_adam run."""

import doctest
import importlib
import pkgutil

import pytest

import ms_adam

MODULES = [module.name for module in pkgutil.walk_packages(ms_adam.__path__, "ms_adam.")]
# These must have some; of the reference, each method.
EXAMPLES = {"ms_adam.optimizer", "ms_adam.checkpoint"}
EXAMPLES |= {name for name in MODULES if name.startswith("ms_adam.reference")}
EXAMPLES -= {f"ms_adam.reference.{name}" for name in ("checks", "correction", "method")}


@pytest.mark.parametrize("name", ["ms_adam", *MODULES])
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted or name not in EXAMPLES
