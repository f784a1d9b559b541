"""One loader for everything that is named: what it finds, and what it says of what it does not."""

import functools
import sys

import pytest

from ms_adam.lab.errors import UserError
from ms_adam.lab.loader import kind, load_callable, suggestion

OWN = """
import functools

class Holder:
    class Inner:
        pass

    @staticmethod
    def make():
        return "made"

def function():
    import {neighbour}
    return {neighbour}.VALUE

bound = functools.partial(dict, a=1)
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch, request):
    """The name of a module in tmp_path, new in each test, with a package and a neighbour."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    name = "own_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    (tmp_path / f"{name}.py").write_text(OWN.format(neighbour=f"{name}_neighbour"))
    (tmp_path / f"{name}_neighbour.py").write_text("VALUE = 7\n")
    package = tmp_path / f"{name}_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "module.py").write_text("class It:\n    pass\n")
    (package / "broken.py").write_text("import no_such_package_at_all\n")
    (package / "raises.py").write_text("raise ValueError('at import')\n")
    return name


@pytest.mark.parametrize(
    "path, found",
    [
        ("{own}.Holder", "Holder"),
        ("{own}:Holder", "Holder"),
        ("{own}.Holder.Inner", "Inner"),
        ("{own}:Holder.Inner", "Inner"),
        ("{own}:Holder.make", "make"),
        ("{own}:function", "function"),
        ("{own}_package.module.It", "It"),
        ("{own}_package.module:It", "It"),
    ],
)
def test_every_way_to_name_a_callable(own, tmp_path, path, found):
    assert load_callable(path.format(own=own), [tmp_path]).__name__ == found


def test_a_file(own, tmp_path):
    made = load_callable(f"{tmp_path / own}.py:function")
    assert made() == 7  # it imports its neighbour when it is called
    assert load_callable(f"{tmp_path / own}.py:Holder.make")() == "made"


def test_a_partial_is_a_callable(own, tmp_path):
    found = load_callable(f"{own}.bound", [tmp_path])
    assert isinstance(found, functools.partial) and found() == {"a": 1}


def test_the_working_directory_comes_after_the_folders(own, tmp_path, monkeypatch):
    folder = tmp_path / "nearer"
    folder.mkdir()
    (folder / f"{own}.py").write_text("class Nearer:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    assert load_callable(f"{own}.Nearer", [folder])
    del sys.modules[own]
    sys.path.remove(str(folder))
    assert load_callable(f"{own}.Holder")


@pytest.mark.parametrize(
    "path, words",
    [
        ("Adam", "names no class or function: write package.module.Class"),
        ("{own}.", "names no class or function"),
        (":f", "'' is not the name of a module"),
        ("{own}:", "'' is not the name of a function or class"),
        ("{own}:1 + 1", "is not the name of a function or class"),
        ("nowhere_at_all:f", "there is no module 'nowhere_at_all' here"),
        ("nowhere_at_all.f", "there is no module 'nowhere_at_all' here"),
        ("mindsporre.nn.Adam", "there is no module 'mindsporre' here; did you mean mindspore"),
        ("{own}_package.modul:It", "there is no module '{own}_package.modul'"),
        ("{own}_package.modul.It", "{own}_package has no 'modul'"),
        ("{own}.Holdr", "{own} has no 'Holdr'; did you mean Holder?"),
        ("{own}:Holder.Innr", "Holder has no 'Innr'; did you mean Inner?"),
        ("{own}:number", "{own}:number is a int, not a class or function"),
        ("{own}_package.module", "is a module, not a class or function"),
        (
            "{own}_package.broken:f",
            "broken cannot be imported: ModuleNotFoundError: No module named "
            "'no_such_package_at_all'",
        ),
        ("{own}_package.raises:f", "raises cannot be imported: ValueError: at import"),
        ("no_such_file.py:f", "no_such_file.py: there is no such file"),
    ],
)
def test_what_is_wrong_is_said(own, tmp_path, path, words):
    with pytest.raises(UserError) as caught:
        load_callable(path.format(own=own), [tmp_path])
    assert words.format(own=own) in str(caught.value)


def test_a_file_that_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "raising_file.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match="raising_file.py cannot be imported: ZeroDivisionError"):
        load_callable(f"{tmp_path}/raising_file.py:f")


@pytest.mark.parametrize(
    "value, words", [(None, "None"), (dict, "the class dict"), ((1, 2), "tuple of 2"), (3, "int")]
)
def test_kind_names_what_came_back(value, words):
    assert kind(value) == words


def test_suggestion_ignores_case_and_private_names():
    assert suggestion("adam", ["Adam", "_adam"]) == "; did you mean Adam?"
    assert suggestion("zzz", ["Adam"]) == ""
