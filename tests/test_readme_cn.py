"""README_CN.md agrees with README.md in everything that needs no translation.

scripts/translation.py compares the two pages. A stale translation is listed by it and does not
fail these tests.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from translation import CHINESE, CODE, ENGLISH, LINK, differences, pages, sections, stale  # noqa: E402

# --- the pages ----------------------------------------------------------------------------------


def test_the_translation_has_the_same_code_links_and_numbers():
    assert differences(*pages()) == []


def test_each_names_the_other_at_the_top():
    english, chinese = pages()
    assert english.split("\n\n")[1] == f"[中文]({CHINESE})"
    assert f"[English]({ENGLISH})" in chinese.split("\n\n")[1]


def test_it_is_chinese():
    """Each section's words are, but for names."""
    for section in sections(pages()[1]):
        words = LINK.sub("]", CODE.sub("", section.prose))
        names = set(re.findall(r"[A-Za-z][A-Za-z-]+", words))
        assert re.search(r"[\u4e00-\u9fff]", words) or not section.prose.strip(), section.heading
        assert not names & {"the", "and", "is", "of", "with", "for"}, section.heading


def test_links_exist():
    for link in LINK.findall(pages()[1]):
        assert link.startswith("http") or (ROOT / link.split("#")[0]).exists(), link


# --- that the comparison can fail ---------------------------------------------------------------

ONE = """# pack

One line.

## Results

Takes 0.26 of the `time`, says [the page](docs/a.md).

| | steps | error |
| --- | --- | --- |
| `Adam` | 1,000 | 1.5e-7 |

    pack run --all

## Licence

```python
# not a heading
x = 1
```
"""
OTHER = """# pack
{}

一行。

## 结果
{}

据[那一页](docs/a.md)，只用 `time` 的 0.26。

| | 步数 | 误差 |
| --- | --- | --- |
| `Adam` | 1,000 | 1.5e-7 |

    pack run --all

## 许可
{}

```python
# not a heading
x = 1
```
""".format(*(f"<!-- README.md: {section.digest} -->" for section in sections(ONE)))


def test_a_translation_is_accepted():
    assert differences(ONE, OTHER) == stale(ONE, OTHER) == []
    rewrapped = ONE.replace("0.26 of the", "0.26 of\nthe")
    assert differences(rewrapped, OTHER) == stale(rewrapped, OTHER) == []
    assert [len(section.blocks) for section in sections(ONE)] == [0, 1, 1]
    assert [len(section.tables) for section in sections(ONE)] == [0, 1, 0]


@pytest.mark.parametrize(
    "before, after, found",
    [
        ("Takes", "It takes", []),
        ("0.26", "0.27", ["numbers: '0.27' only in README.md, '0.26' only in README_CN.md"]),
        ("`time`", "`memory`", ["inline code: 'memory' only in README.md"]),
        ("docs/a.md", "docs/b.md", ["links: 'docs/b.md' only in README.md"]),
        ("1.5e-7", "1.6e-7", ["numbers: '1.6e-7' only in README.md"]),
        ("| 1,000 ", "", ["has 2 cells against 3", "numbers"]),
        ("\n\n    pack", "\n| new | 1 | 2 |\n\n    pack", ["table 1 has 3 rows against 2"]),
        ("run --all", "run", ["code differs: '    pack run' against '    pack run --all'"]),
        ("    pack run --all\n", "", ["0 blocks of code against 1"]),
    ],
)
def test_an_edit_without_its_counterpart_is_found(before, after, found):
    assert ONE.count(before) == 1 or before == "Takes"
    edited = ONE.replace(before, after, 1)
    lines = differences(edited, OTHER)
    assert all(line.startswith("'## Results' ('## 结果' in README_CN.md): ") for line in lines)
    assert len(lines) == len(found)
    assert all(words in line for line, words in zip(lines, found)), lines
    (line,) = stale(edited, OTHER)
    assert line.startswith("'## Results' has changed since it was translated")


@pytest.mark.parametrize(
    "before, after",
    [
        ("0.26", "0.62"),
        ("1.5e-7", "1.5e-8"),
        ("--all", "--none"),
        ("| `Adam` | 1,000 | 1.5e-7 |\n", ""),
        ("docs/a.md", "docs/b.md"),
    ],
)
def test_an_edit_of_the_translation_only_is_found(before, after):
    assert differences(ONE, OTHER.replace(before, after))[0].startswith("'## Results'")


def test_a_new_heading_is_found():
    new = ONE.replace("## Licence", "## Devices\n\nNone.\n\n## Licence")
    assert differences(new, OTHER) == [
        "README.md has 4 headings and README_CN.md has 3, or their levels differ"
    ]
    assert [line.split(" has")[0] for line in stale(new, OTHER)] == ["'## Devices'"]
    moved = ONE.replace("## Results", "### Results")
    assert "their levels differ" in differences(moved, OTHER)[0]
    assert [line.split(" has")[0] for line in stale(moved, OTHER)] == ["'### Results'"]


def test_the_digest_to_be_written_is_listed():
    edited = ONE.replace("Takes", "It takes")
    line = re.search(r"<!-- .* -->", stale(edited, OTHER)[0])[0]
    brought_up = OTHER.replace(f"<!-- README.md: {sections(ONE)[1].digest} -->", line)
    assert stale(edited, brought_up) == []


def test_any_edit_of_the_readme_is_listed():
    """Each section of the page itself gets a further word."""
    english, chinese = pages()
    known = stale(english, chinese)
    for section in sections(english):
        edited = english.replace(section.heading, section.heading + "\n\nMore.", 1)
        assert f"'{section.heading}' has" in " ".join(stale(edited, chinese))
        assert len(stale(edited, chinese)) >= len(known)


def test_the_script_lists_stale_sections():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "translation.py"], capture_output=True, text=True
    )
    listed = stale(*pages()) + differences(*pages())
    assert done.returncode == bool(listed)
    assert done.stdout.splitlines() == (listed or [f"{CHINESE} is up to date with {ENGLISH}."])
