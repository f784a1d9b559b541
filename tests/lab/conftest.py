"""What tests of worker processes share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def importable(monkeypatch):
    """Lets worker processes import the modules of the tests."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
