"""What tests of worker processes share."""

import pytest
from lab.run.launched import paths_of_tests


@pytest.fixture
def importable(monkeypatch):
    """Lets worker processes import the modules of the tests."""
    monkeypatch.setenv("PYTHONPATH", paths_of_tests()["PYTHONPATH"])
