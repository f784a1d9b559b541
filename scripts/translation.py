"""Lists the sections of README_CN.md that are stale, and how the two pages differ.

    python scripts/translation.py

Below each Chinese heading stands a digest of the English section that it translates. When a
translation has been brought up to date, write the new digest there. The exit status is 1 if
something is listed.

`differences` compares everything that needs no translation: headings, code, tables, inline code,
links and numbers. tests/test_readme_cn.py allows no such difference. `stale` compares the digests.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = "README.md", "README_CN.md"
DIGEST = re.compile(r"<!-- README\.md: (\w+) -->")
HEADING = re.compile(r"(#+) (.+)")
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)]+)\)")
# 5,000  1e-4  0.26  92.5%; not the digits of float32 or of a name
NUMBER = re.compile(r"(?<![A-Za-z0-9_.])\d+(?:,\d{3})*(?:\.\d+)*(?:e-?\d+)?%?(?![A-Za-z0-9_])")


class Section(NamedTuple):
    """A heading and the text below it, up to the next heading of any level.

    Attributes:
        heading: Such as "## Results".
        blocks: Fenced and indented code, each as one string.
        tables: Each a list of rows, each a list of cells, without the line below the head.
        prose: Everything else, as one string.
        digest: Of all of it, except for the line breaks.
        noted: The digest written in it, that of the English section it was translated from.
    """

    heading: str
    blocks: list[str]
    tables: list[list[list[str]]]
    prose: str
    digest: str
    noted: str


def sections(text: str) -> list[Section]:
    """Returns the sections of a page of Markdown that begins with a heading."""
    parts: list[list[str]] = [[]]
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if HEADING.match(line) and not fenced and any(parts[-1]):
            parts.append([])
        parts[-1].append(line)
    return [_section(lines) for lines in parts]


def _section(lines: list[str]) -> Section:
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


def stale(english: str, chinese: str) -> list[str]:
    """Returns one sentence for each section whose translation may be out of date."""
    noted = {section.noted for section in sections(chinese)}
    return [
        f"'{section.heading}' has changed since it was translated, or is not translated. Bring it "
        f"up to date in {CHINESE} and write <!-- {ENGLISH}: {section.digest} --> below its heading"
        for section in sections(english)
        if section.digest not in noted
    ]


def differences(english: str, chinese: str) -> list[str]:
    """Returns one sentence for each difference that no translation explains."""
    ours, theirs = sections(english), sections(chinese)
    levels = [[HEADING.match(section.heading)[1] for section in page] for page in (ours, theirs)]
    if levels[0] != levels[1]:
        return [
            f"{ENGLISH} has {len(ours)} headings and {CHINESE} has {len(theirs)}, or their levels "
            "differ"
        ]
    return [
        f"'{one.heading}' ('{other.heading}' in {CHINESE}): {difference}"
        for one, other in zip(ours, theirs)
        for difference in _differing(one, other)
    ]


def _differing(one: Section, other: Section) -> Iterator[str]:
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
                yield from (f"{row}: {difference}" for difference in _parts(mine, their))
    yield from _parts(one.prose, other.prose)


def _parts(one: str, other: str) -> Iterator[str]:
    """Compares inline code, links and numbers of two texts; their order may differ."""
    for kind, pattern in (("inline code", CODE), ("links", LINK), ("numbers", NUMBER)):
        a, b = (Counter(_found(pattern, text)) for text in (one, other))
        if a != b:
            yield (
                f"{kind}: {_list((a - b).elements())} only in {ENGLISH}, "
                f"{_list((b - a).elements())} only in {CHINESE}"
            )


def _found(pattern: re.Pattern[str], text: str) -> list[str]:
    if pattern is NUMBER:  # those in code and links have been compared
        text = LINK.sub("]", CODE.sub("", text))
    if pattern is LINK:  # each page links to the other one
        return [link for link in pattern.findall(text) if link not in (ENGLISH, CHINESE)]
    return pattern.findall(text)


def _list(things) -> str:
    return ", ".join(map(repr, things)) or "nothing"


def pages() -> list[str]:
    """Returns the English and the Chinese page."""
    return [(ROOT / name).read_text(encoding="utf-8") for name in (ENGLISH, CHINESE)]


if __name__ == "__main__":
    left = stale(*pages()) + differences(*pages())
    print("\n".join(left) or f"{CHINESE} is up to date with {ENGLISH}.")
    sys.exit(bool(left))
