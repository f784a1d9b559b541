"""docs/api/: the API reference builds without a warning and has every public name."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ms_adam
from ms_adam import reference

ROOT = Path(__file__).parent.parent
OPTIONS = ["-W", "--keep-going", "--quiet"]  # those of scripts/check docs


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *OPTIONS, ROOT / "docs" / "api", folder],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_options_are_those_of_the_script():
    assert f"sphinx {' '.join(OPTIONS)} docs/api" in (ROOT / "scripts" / "check").read_text()


def test_every_public_name_is_described(pages):
    from sphinx.util.inventory import InventoryFile

    with open(pages / "objects.inv", "rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, path: path)
    described = {name for role in inventory.values() for name in role}
    wanted = {f"ms_adam.{name}" for name in ms_adam.__all__}
    wanted |= {f"ms_adam.reference.{name}" for name in reference.__all__}
    assert wanted - described == set()


@pytest.mark.parametrize(
    "value",
    [getattr(module, name) for module in (ms_adam, reference) for name in module.__all__],
    ids=lambda value: f"{value.__module__}.{value.__qualname__}",
)
def test_public_names_have_type_hints(value):
    functions = [value]
    if isinstance(value, type):
        functions = [
            function
            for name, function in vars(value).items()
            if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_"))
        ]
    for function in functions:
        signature = inspect.signature(function)
        missing = [
            name
            for name, parameter in signature.parameters.items()
            if name != "self" and parameter.annotation is parameter.empty
        ]
        assert missing == [], function
        assert signature.return_annotation is not signature.empty or function.__name__ == "__init__"
