"""The kernel as fixtures; it is built once for all tests of a process."""

import pytest

from backends.kernel.launching import load
from ms_adam.backends.fused import SOURCE


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def kernel(kernel_cache):
    return load(SOURCE, kernel_cache)
