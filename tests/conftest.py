"""What all tests share: the mode as a fixture, and MindSpore on the CPU."""

import pytest


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    """Runs a test in both execution modes."""
    import mindspore as ms
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    return request.param
