"""docs/api/: the API reference builds without a warning and has every public name."""

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
