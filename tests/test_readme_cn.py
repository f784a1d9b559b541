"""README_CN.md says what README.md says: a change of the one needs its counterpart in the other.

What can be compared is: headings, code, tables, inline code, links, numbers. Of the words, a digest
of each English section stands beneath its Chinese heading: it is written anew when the translation
has been brought up to date. `python tests/test_readme_cn.py` tells what is left to do.
"""

import hashlib
import re
import sys
from collections import Counter
from pathlib import Path
from typing import List, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = "README.md", "README_CN.md"
DIGEST = re.compile(r"<!-- README\.md: (\w+) -->")
_HEADING = re.compile(r"(#+) (.+)")
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)]+)\)")
# 5,000  1e-4  0.26  92.5%; not the digits of float32 or of a name
_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])\d+(?:,\d{3})*(?:\.\d+)*(?:e-?\d+)?%?(?![A-Za-z0-9_])")


class Section(NamedTuple):
    """A heading and what stands beneath it, up to the next heading of any level.

    Attributes:
        heading: as "## Results".
        blocks: fenced and indented code, each as one string.
        tables: each a list of rows, each a list of cells; without the line beneath the head.
        prose: everything else, in one string.
        digest: of all of it, but for how the lines are broken.
        noted: the digest that stands in it: that of the English section it was translated from.
    """

    heading: str
    blocks: List[str]
    tables: List[List[List[str]]]
    prose: str
    digest: str
    noted: str


def sections(text):
    """The sections of a page of Markdown that begins with a heading."""
    parts, fenced = [[]], False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if _HEADING.match(line) and not fenced and any(parts[-1]):
            parts.append([])
        parts[-1].append(line)
    return [_section(lines) for lines in parts]


def _section(lines):
    blocks, tables, prose = [], [], []
    fenced, kind = False, None
    for line in lines[1:]:
        before = kind
        if fenced or line.startswith("```"):
            kind = "code"
            if not fenced:
                blocks.append("")
            blocks[-1] += line + "\n"
            fenced ^= line.startswith("```")
        elif line.startswith("    ") or (not line and before == "indented"):
            kind = "indented"
            if before != kind:
                blocks.append("")
            blocks[-1] += line + "\n"
        elif line.startswith("|"):
            kind = "table"
            if before != kind:
                tables.append([])
            if not re.fullmatch(r"[|\s:-]+-[|\s:-]*", line):
                tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        else:
            kind = "prose"
            prose.append(line)
    words = " ".join(" ".join(lines).split())
    noted = DIGEST.search(words)
    return Section(
        lines[0],
        [block.rstrip("\n") for block in blocks],
        tables,
        DIGEST.sub("", "\n".join(prose)),
        hashlib.sha256(words.encode()).hexdigest()[:8],
        noted[1] if noted else "",
    )


def differences(english, chinese):
    """What keeps one page from being the translation of the other, in sentences; [] if nothing."""
    ours, theirs = sections(english), sections(chinese)
    levels = [[_HEADING.match(section.heading)[1] for section in page] for page in (ours, theirs)]
    if levels[0] != levels[1]:
        translated = {section.noted for section in theirs}
        known = {section.digest for section in ours}
        fresh = [section.heading for section in ours if section.digest not in translated]
        stale = [section.heading for section in theirs if section.noted not in known]
        return [
            f"{ENGLISH} has {len(ours)} headings and {CHINESE} has {len(theirs)}, or their "
            f"levels differ. Not translated: {_list(fresh)}; of no section that is there: "
            f"{_list(stale)}"
        ]
    found = []
    for one, other in zip(ours, theirs):
        place = f"'{one.heading}' ('{other.heading}' in {CHINESE})"
        found += [f"{place}: {what}" for what in _differing(one, other)]
        if other.noted != one.digest:
            found.append(
                f"{place}: {ENGLISH} has changed since this section was translated, or it says not "
                f"of what it is a translation. Bring it up to date in {CHINESE}; then let the line "
                f"beneath its heading be <!-- {ENGLISH}: {one.digest} -->"
            )
    return found


def _differing(one, other):
    if len(one.blocks) != len(other.blocks):
        yield f"{len(one.blocks)} blocks of code against {len(other.blocks)}"
    for a, b in zip(one.blocks, other.blocks):
        for left, right in zip(a.splitlines() + [""], b.splitlines() + [""]):
            if left != right:
                yield f"code differs: {left!r} against {right!r}"
                break
    if len(one.tables) != len(other.tables):
        yield f"{len(one.tables)} tables against {len(other.tables)}"
    for number, (a, b) in enumerate(zip(one.tables, other.tables), 1):
        if len(a) != len(b):
            yield f"table {number} has {len(a)} rows against {len(b)}"
        for left, right in zip(a, b):
            row = f"table {number}, the row of {left[0] or left[1]!r}"
            if len(left) != len(right):
                yield f"{row} has {len(left)} cells against {len(right)}"
            for mine, their in zip(left, right):
                yield from (f"{row}: {what}" for what in _parts(mine, their))
    yield from _parts(one.prose, other.prose)


def _parts(one, other):
    """What inline code, links and numbers of two texts differ in; their order is the language's."""
    for kind, pattern in (("inline code", _CODE), ("links", _LINK), ("numbers", _NUMBER)):
        a, b = (Counter(_found(pattern, text)) for text in (one, other))
        if a != b:
            yield (
                f"{kind}: {_list((a - b).elements())} in {ENGLISH} alone, "
                f"{_list((b - a).elements())} in {CHINESE} alone"
            )


def _found(pattern, text):
    if pattern is _NUMBER:  # those in code and links have been compared
        text = _LINK.sub("]", _CODE.sub("", text))
    if pattern is _LINK:  # each page names the other one
        return [link for link in pattern.findall(text) if link not in (ENGLISH, CHINESE)]
    return pattern.findall(text)


def _list(things):
    return ", ".join(map(repr, things)) or "nothing"


# --- the pages ----------------------------------------------------------------------------------


def pages():
    return [(ROOT / name).read_text(encoding="utf-8") for name in (ENGLISH, CHINESE)]


def test_the_translation_is_up_to_date():
    assert differences(*pages()) == []


def test_each_names_the_other_at_the_top():
    english, chinese = pages()
    assert english.split("\n\n")[1] == f"[中文]({CHINESE})"
    assert f"[English]({ENGLISH})" in chinese.split("\n\n")[1]


def test_it_is_chinese():
    """Each section's words are, but for names."""
    for section in sections(pages()[1]):
        words = _LINK.sub("]", _CODE.sub("", section.prose))
        names = set(re.findall(r"[A-Za-z][A-Za-z-]+", words))
        assert re.search(r"[\u4e00-\u9fff]", words) or not section.prose.strip(), section.heading
        assert not names & {"the", "and", "is", "of", "with", "for"}, section.heading


def test_links_exist():
    for link in _LINK.findall(pages()[1]):
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
    assert differences(ONE, OTHER) == []
    assert differences(ONE.replace("0.26 of the", "0.26 of\nthe"), OTHER) == []
    assert [len(section.blocks) for section in sections(ONE)] == [0, 1, 1]
    assert [len(section.tables) for section in sections(ONE)] == [0, 1, 0]


_STALE = "has changed since this section was translated"


@pytest.mark.parametrize(
    "before, after, told",
    [
        ("Takes", "It takes", [_STALE]),
        (
            "0.26",
            "0.27",
            ["numbers: '0.27' in README.md alone, '0.26' in README_CN.md alone", _STALE],
        ),
        ("`time`", "`memory`", ["inline code: 'memory' in README.md alone", _STALE]),
        ("docs/a.md", "docs/b.md", ["links: 'docs/b.md' in README.md alone", _STALE]),
        ("1.5e-7", "1.6e-7", ["numbers: '1.6e-7' in README.md alone", _STALE]),
        ("| 1,000 ", "", ["has 2 cells against 3", "numbers", _STALE]),
        ("\n\n    pack", "\n| new | 1 | 2 |\n\n    pack", ["table 1 has 3 rows against 2", _STALE]),
        ("run --all", "run", ["code differs: '    pack run' against '    pack run --all'", _STALE]),
        ("    pack run --all\n", "", ["0 blocks of code against 1", _STALE]),
    ],
)
def test_an_edit_without_its_counterpart_is_told(before, after, told):
    assert ONE.count(before) == 1 or before == "Takes"
    found = differences(ONE.replace(before, after, 1), OTHER)
    assert all(line.startswith("'## Results' ('## 结果' in README_CN.md): ") for line in found)
    assert len(found) == len(told)
    assert all(words in line for line, words in zip(found, told)), found


def test_an_edit_of_the_translation_alone_is_told():
    for before, after in (
        ("0.26", "0.62"),
        ("1.5e-7", "1.5e-8"),
        ("--all", "--none"),
        ("| `Adam` | 1,000 | 1.5e-7 |\n", ""),
        ("docs/a.md", "docs/b.md"),
    ):
        assert differences(ONE, OTHER.replace(before, after))[0].startswith("'## Results'")


def test_a_new_heading_is_named():
    new = ONE.replace("## Licence", "## Devices\n\nNone.\n\n## Licence")
    assert differences(new, OTHER) == [
        "README.md has 4 headings and README_CN.md has 3, or their levels differ. "
        "Not translated: '## Devices'; of no section that is there: nothing"
    ]
    assert (
        "Not translated: '### Results'; of no section that is there: '## 结果'"
        in differences(ONE.replace("## Results", "### Results"), OTHER)[0]
    )


def test_the_digest_to_be_written_is_told():
    edited = ONE.replace("Takes", "It takes")
    line = re.search(r"<!-- .* -->", differences(edited, OTHER)[0])[0]
    brought_up = OTHER.replace(f"<!-- README.md: {sections(ONE)[1].digest} -->", line)
    assert differences(edited, brought_up) == []


def test_any_edit_of_the_readme_is_told():
    """A word more in any section of the page itself."""
    english, chinese = pages()
    for section in sections(english):
        edited = english.replace(section.heading, section.heading + "\n\nMore.", 1)
        found = differences(edited, chinese)
        assert len(found) == 1 and found[0].startswith(f"'{section.heading}' (")


if __name__ == "__main__":
    left = differences(*pages())
    print("\n".join(left) or f"{CHINESE} is up to date with {ENGLISH}.")
    sys.exit(bool(left))
