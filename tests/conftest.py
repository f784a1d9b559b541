"""What all tests share: the mode and the command as fixtures, and MindSpore on the CPU."""

import gc
from pathlib import Path

import pytest
from pairwise import cover_of_pairs
from sources import remember_sources

CLIENTS = Path(__file__).parent / "clients"
# Files that take a minute or more. A worker that began one last would be left alone with it.
LONG = (
    "test_compare_pairs.py",
    "test_sharding.py",
    "test_compare_ranks.py",
    "test_prebuilt.py",
    "test_ranks_end_to_end.py",
    "test_flat_composite.py",
)


def pytest_ignore_collect(collection_path, config):
    """Leaves tests/clients, which needs more packages, to `scripts/test --clients`."""
    named = any("clients" in Path(argument.partition("::")[0]).parts for argument in config.args)
    return True if collection_path == CLIENTS and not named else None


def pytest_addoption(parser):
    parser.addoption("--product", action="store_true", help="run all combinations of parameters")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Puts long files first; leaves out combinations that hold no new pair of parameters."""
    chosen = items if config.option.product else cover_of_pairs(items)
    items[:] = sorted(chosen, key=lambda item: item.path.name not in LONG)


def pytest_collection_finish():
    """Spares each compilation 0.1 s and more.

    MindSpore collects garbage in each, and would look at all that the test files import: 366,000
    objects.
    """
    gc.collect()
    gc.freeze()
    remember_sources()


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    """Runs a test in both execution modes."""
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    return request.param


@pytest.fixture
def invoke(monkeypatch):
    """Calls ms-adam with some arguments; a `typer.testing.Result`."""
    from typer.testing import CliRunner

    from ms_adam.lab import cli
    from ms_adam.lab.cli import common

    # The command handles SIGTERM for its own process; the test's stays as it is.
    monkeypatch.setattr(common.signal, "signal", lambda *_: None)
    return lambda *arguments: CliRunner().invoke(cli.app, [str(a) for a in arguments])
