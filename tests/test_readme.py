"""What README.md and docs/ say is true: code runs, commands and paths exist."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ms_adam.lab.studies.ranks.launch import free_port

ROOT = Path(__file__).parent.parent
# The blocks of docs/clients.md are run inside the packages that they are for, by tests/clients.
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "clients.md"),
]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page, tmp_path):
    codes = blocks(page)
    if "communication.init()" in "".join(codes):  # one training of several ranks
        return run_in_ranks("\n".join(codes), tmp_path)
    for number, code in enumerate(codes):
        script = tmp_path / f"block{number}.py"  # MindSpore compiles code that stands in a file
        script.write_text(code)
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-2000:]


def run_in_ranks(code, folder):
    (folder / "train.py").write_text(code + "print('reached the end')\n")
    command = [
        sys.executable,
        "-m",
        "mindspore.parallel.cluster.run",
        "--worker_num=2",
        "--local_worker_num=2",
        f"--master_port={free_port()}",
        "--log_dir=logs",
        "--join=True",
        "train.py",
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # msrun calls python
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PATH": path}
    )
    logs = [(folder / "logs" / f"worker_{rank}.log").read_text() for rank in (0, 1)]
    assert done.returncode == 0, logs[0][-2000:]
    assert all("reached the end" in log for log in logs)


def test_the_example_is_short_and_learns(tmp_path):
    code = blocks(PAGES[0])[0]
    body = [line for line in code.splitlines() if line and "import" not in line]
    assert len(body) <= 10
    script = tmp_path / "example.py"
    script.write_text(code + "assert float(value) < 0.5, value\n")
    subprocess.run([sys.executable, script], check=True, capture_output=True, cwd=tmp_path)


def test_commands_and_links_exist():
    text = PAGES[0].read_text()
    for command in re.findall(r"^    (scripts/\w+)", text, re.MULTILINE):
        path = ROOT / command
        assert path.is_file() and path.stat().st_mode & 0o111
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), link
    for module in re.findall(r"python -m ([\w.]+)", " ".join(page.read_text() for page in PAGES)):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_keywords_named_are_keywords():
    import ms_adam

    parameters = inspect.signature(ms_adam.Adam.__init__).parameters
    for row in re.findall(r"^\| (`\w+=.*?) \|", PAGES[0].read_text(), re.MULTILINE):
        for keyword in re.findall(r"`(\w+)=", row):
            assert keyword in parameters


def test_the_drawing_names_every_room():
    drawing = PAGES[0].read_text().split("## Rooms")[1].split("## Devices")[0]
    for path in sorted((ROOT / "ms_adam").iterdir()):
        if path.name != "__init__.py" and not path.name.startswith("__py"):
            assert path.name in drawing, path.name


def test_the_table_of_support_has_every_case():
    """Its rows and columns are those of `ms-adam validate --markdown`."""
    from ms_adam.lab.studies.matrix.cases import CASES, COLUMNS, SCHEMES

    table = PAGES[0].read_text().split("## What runs where")[1].split("## Rooms")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == ["", *(column.name for column in COLUMNS), "nn.Adam"]
    assert [row[0] for row in rows[2:]] == [case.name for case in (*CASES, *SCHEMES)]
    assert "fell short" not in str(rows)


def test_every_test_folder_mirrors_a_room():
    tests = ROOT / "tests"
    clients = tests / "clients"  # other packages, which the optimizer runs in
    for folder in tests.rglob("*"):
        if (
            folder.is_dir()
            and not folder.name.startswith("__")
            and clients not in (folder, *folder.parents)
        ):
            assert (ROOT / "ms_adam" / folder.relative_to(tests)).is_dir(), folder
