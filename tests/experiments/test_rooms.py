"""Imports go one way: from what is above the rooms, through a room, to what rooms share."""

import ast
from pathlib import Path

import pytest

import ms_adam

PACKAGE = "ms_adam.experiments"
FOLDER = Path(ms_adam.__file__).parent / "experiments"
ROOMS = {path.name for path in FOLDER.iterdir() if (path / "__init__.py").exists()}
ABOVE = {"kinds", "runner"}  # what knows the rooms


def imported(path):
    """The rooms and modules of the package that a module of it imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith(f"{PACKAGE}."):
                yield name[len(PACKAGE) + 1:].split(".")[0]


def test_there_are_rooms():
    assert {"images", "sparse_text", "paper", "train", "trajectories"} <= ROOMS
    assert "config" in set(imported(FOLDER / "images" / "config.py"))
    assert {"images", "sparse_text"} <= set(imported(FOLDER / "kinds.py"))


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_knows_no_other_room(room):
    for path in sorted((FOLDER / room).rglob("*.py")):
        assert not set(imported(path)) & ((ROOMS - {room}) | ABOVE), path


def test_what_rooms_share_knows_no_room():
    for path in sorted(FOLDER.glob("*.py")):
        if path.stem not in ABOVE:
            assert not set(imported(path)) & (ROOMS | ABOVE), path
