"""tests/clients runs each block of docs/clients.md and asserts each of its errors."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "clients.md").read_text()
PACKAGES = ["MindCV", "MindFormers", "mindone"]
VERSIONS = (PROJECT / "scripts" / "_environment.sh").read_text()


def source_of(package):
    return (PROJECT / "tests" / "clients" / f"test_{package.lower()}.py").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_each_block_is_run(package):
    """Tests call `shown(package, number)` to get the lines that they run."""
    section = re.search(rf"^## {package}$(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL).group(1)
    blocks = len(re.findall(r"^```\w+$", section, re.MULTILINE))
    used = re.findall(rf'shown\("{package}"(?:, (\d))?\)', source_of(package))
    assert blocks and sorted({int(number or 0) for number in used}) == list(range(blocks))
    assert re.search(rf"{package.lower()}==[\d.]+", section).group() in VERSIONS


@pytest.mark.parametrize("package", PACKAGES)
def test_each_error_is_asserted(package):
    """Tests call `documented(package, what)` to get the error that they expect."""
    rows = re.findall(
        rf"^\| {package} \| (.+?) \| `", PAGE.partition("What does not run")[2], re.MULTILINE
    )
    assert rows and f'documented("{package}", ' in source_of(package)
    assert [what for what in rows if f'"{what}"' not in source_of(package)] == []
