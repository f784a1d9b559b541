"""The kernel as a fixture: the library that the optimizers of this machine load."""

import pytest

from backends.kernel.launching import load
from ms_adam.backends.fused import SOURCE


@pytest.fixture(scope="session")
def kernel():
    return load(SOURCE)
