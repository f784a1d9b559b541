"""The examples in the docstrings of ms_adam run.

Those of ms_adam.reference are run by tests/reference/test_reference_package.py.
"""

import doctest
import importlib
import pkgutil

import pytest

import ms_adam

EXAMPLES = ("ms_adam.optimizer", "ms_adam.checkpoint")  # must have some


def modules():
    for module in pkgutil.walk_packages(ms_adam.__path__, "ms_adam."):
        if not module.name.startswith("ms_adam.reference"):
            yield module.name


@pytest.mark.parametrize("name", ["ms_adam", *modules()])
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert result.attempted or name not in EXAMPLES
