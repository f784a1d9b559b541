"""Imports go one way: cli -> report -> studies -> what studies share -> library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ms_adam

PACKAGE = Path(ms_adam.__file__).parent
# From the bottom up. A room imports only from rooms below it.
FLOORS = (
    ("library",),
    ("errors", "measure", "sequential"),
    ("targets",),
    ("run", "claims"),
    ("problems", "train"),
    ("observers", "sides"),
    ("bench", "studies"),
    ("report",),
    ("cli",),
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
STUDIES = {
    path.stem
    for path in (PACKAGE / "lab" / "studies").iterdir()
    if path.suffix == ".py" or (path / "__init__.py").exists()
} - {"__init__"}


def room(module):
    """The room of a dotted name, and its study if it is in one."""
    parts = module.split(".")
    if parts[:2] != ["ms_adam", "lab"]:
        return "library", None
    if parts[2:3] == ["studies"]:
        return "studies", parts[3] if len(parts) > 3 and parts[3] in STUDIES else None
    return parts[2] if len(parts) > 2 else "lab", None


def imports(source):
    """The dotted names in ms_adam that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "ms_adam")


def wrong_imports(module, source):
    """What a module may not import."""
    here, study = room(module)
    for name in imports(source):
        there, other = room(name)
        if (here, study) == (there, other):
            continue
        if here == there == "studies":
            if other is not None:
                yield name
        elif here != there and not FLOOR[there] < FLOOR[here]:
            yield name


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_from_below(module):
    assert not list(wrong_imports(module, MODULES[module].read_text()))


@pytest.mark.parametrize(
    "module, source",
    [
        ("ms_adam.optimizer", "from ms_adam.lab import errors"),
        ("ms_adam.lab.run.config", "from ms_adam.lab.studies.images import config"),
        ("ms_adam.lab.studies.images.study", "import ms_adam.lab.studies.text.study"),
        ("ms_adam.lab.studies.images.study", "from ms_adam.lab.report import html"),
    ],
)
def test_wrong_imports_are_found(module, source):
    assert list(wrong_imports(module, source))


@pytest.mark.parametrize(
    "used, unneeded",
    [
        ("ms_adam; ms_adam.Adam; ms_adam.load_state; import ms_adam.reference", ["ms_adam.lab"]),
        # The tests of the optimizer use it on MindSpore 2.0.0, where nothing else is installed.
        ("ms_adam.lab.studies.matrix.cells, ms_adam.lab.studies.matrix.accuracy", []),
    ],
)
def test_the_library_and_the_matrix_need_mindspore_and_numpy_only(used, unneeded):
    unneeded = {*unneeded, "typer", "rich", "pydantic", "yaml", "matplotlib", "jinja2"}
    script = f"import sys; import {used}; print({unneeded} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "set()"
