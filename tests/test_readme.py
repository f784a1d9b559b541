"""README.md, CONTRIBUTING.md and docs/: code runs, commands, paths and links exist."""

import glob
import importlib.util
import inspect
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.scripts_run import run_on_two_ranks, run_script

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ms_adam"
README, RESULTS, CONTRIBUTING = (
    ROOT / "README.md",
    ROOT / "docs/results.md",
    ROOT / "CONTRIBUTING.md",
)
PAGES = [README, CONTRIBUTING, *sorted((ROOT / "docs").glob("*.md"))]
# tests/clients runs the blocks of docs/clients.md, inside the packages that they are for.
WITH_CODE = [page for page in PAGES if "```python" in page.read_text() and page.stem != "clients"]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_code_runs(page, tmp_path):
    codes = blocks(page)
    if page == README:  # the example learns
        codes[0] += "assert float(value) < 0.5, value\n"
    if "communication.init()" in "".join(codes):  # one training of several ranks
        codes = ["\n".join([*codes, "print('reached the end')\n"])]
    for number, code in enumerate(codes):
        if "import torch" in code and importlib.util.find_spec("torch") is None:
            continue  # CI has none: tests/test_mint.py has the same exchange
        script = tmp_path / f"block{number}.py"  # MindSpore only compiles code from a file
        script.write_text(code)
        if "communication.init()" not in code:
            run_script(script, tmp_path)
        else:
            assert all("reached the end" in log for log in run_on_two_ranks(script, tmp_path))


def test_the_readme_and_its_example_are_short():
    text = README.read_text()
    assert len(text.split()) <= 900
    assert len(re.findall(r"!\[", text)) == 1
    example = [line for line in blocks(README)[0].splitlines() if line and "import" not in line]
    assert len(example) <= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links_exist(page):
    text = page.read_text()
    for command in re.findall(r"^    (scripts/\w+)", text, re.MULTILINE):
        path = ROOT / command
        assert path.is_file() and path.stat().st_mode & 0o111
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        path, _, place = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not place or place in anchors(target), link
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
    for script in re.findall(r"python ((?:docs|scripts|tests|examples)/\S+?\.py)", text):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_ms_adam_can_be_parsed(page, monkeypatch):
    """The command's own parser takes each line; the configs in it exist."""
    import typer

    from ms_adam.lab.cli import app

    monkeypatch.chdir(ROOT)
    verbs = typer.main.get_command(app).commands
    for line in re.findall(r"(?:`|^    )(ms-adam \w[^`\n]*)", page.read_text(), re.MULTILINE):
        _, verb, *arguments = shlex.split(line)
        for config in [argument for argument in arguments if argument.endswith(".yaml")]:
            found = glob.glob(config)
            assert found, line
            place = arguments.index(config)
            arguments[place : place + 1] = found
        verbs[verb].make_context(verb, arguments)


def anchors(page):
    """Returns the names of a page's headings in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_keywords_named_are_keywords():
    import ms_adam

    parameters = inspect.signature(ms_adam.Adam.__init__).parameters
    rows = re.findall(r"^\| (`\w+=.*?) \|", README.read_text(), re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        for keyword in re.findall(r"`(\w+)=", row):
            assert keyword in parameters


def test_the_picture_is_drawn_from_its_numbers(tmp_path):
    sys.path.insert(0, str(ROOT / "docs"))
    import overview

    content = json.loads((ROOT / "docs" / "overview.json").read_text())
    overview.draw(content, tmp_path / "overview.png")
    assert (tmp_path / "overview.png").read_bytes()[:4] == b"\x89PNG"
    sizes = {row["size"] for row in content["errors"]}
    assert sizes == set(overview.SCALES)
    assert {row["case"] for row in content["costs"]} == set(overview.CASES)


def test_the_readme_quotes_the_numbers_of_the_picture():
    """The first step of nn.Adam is 11% and 88% off; epsilon acts 32 times as strongly."""
    content = json.loads((ROOT / "docs" / "overview.json").read_text())
    first = {
        round(np.log10(row["size"])): row["error"]
        for row in content["errors"]
        if row["steps"] == 1 and row["optimizer"] == "mindspore.nn.Adam"
    }
    assert f"1e-4 its first step is {first[-4]:.0%} off" in joined(README)
    assert f"with 1e-8 it is {first[-8]:.0%} off" in joined(README)
    assert f"acts {1 / (1 - 0.999) ** 0.5:.0f} times as strongly" in joined(README)


def joined(page):
    return " ".join(page.read_text().split())


def test_the_table_of_support_has_every_case():
    """Its rows and columns are those of `ms-adam validate --markdown`."""
    from ms_adam.lab.studies.matrix.cases import CASES, COLUMNS, SCHEMES

    table = RESULTS.read_text().split("## What runs where")[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == ["", *(column.name for column in COLUMNS), "nn.Adam"]
    assert [row[0] for row in rows[2:]] == [case.name for case in (*CASES, *SCHEMES)]
    assert "fell short" not in str(rows)


def test_the_sketch_of_rooms_is_complete():
    """It names each file and folder of the library and of the lab, and nothing else."""
    sketch = CONTRIBUTING.read_text().split("## Rooms")[1].split("Data flows")[0]
    drawn = set(re.findall(r"\b\w+(?:\.py|/)", sketch.split("    ms_adam/\n")[1]))
    rooms = {
        path.name + "/" * path.is_dir()
        for folder in (PACKAGE, PACKAGE / "backends", PACKAGE / "lab")
        for path in folder.iterdir()
        if not path.name.startswith("__") and path.suffix in ("", ".py")
    }
    assert drawn == rooms


def test_every_test_folder_mirrors_a_room():
    tests = ROOT / "tests"
    clients = tests / "clients"  # other packages, in which the optimizer runs
    for folder in tests.rglob("*"):
        if (
            folder.is_dir()
            and not folder.name.startswith("__")
            and clients not in (folder, *folder.parents)
        ):
            assert (PACKAGE / folder.relative_to(tests)).is_dir(), folder
