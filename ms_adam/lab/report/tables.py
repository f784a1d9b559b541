"""Tables as data: columns that read the rows of a result. HTML and Markdown render them.

The text of a cell may hold ``**bold**``, ```code``` and line breaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from ms_adam.lab.report.html import power

ABSENT = "–"


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its heading.
        key: A key of the row, or a function of it. None as the value gives a dash.
        form: How the value is written; as it is if not given.
        kind: "number", aligned to the right; "name", on one line; "long", broken anywhere.
    """

    title: str
    key: Union[str, Callable[[Any], Any]]
    form: Optional[Callable[[Any], str]] = None
    kind: str = ""

    def cell(self, row: Any) -> Any:
        """Returns the text of a row in this column."""
        value = self.key(row) if callable(self.key) else row[self.key]
        if value is None:
            return ABSENT
        return value if self.form is None else self.form(value)


def number(title: str, key: Union[str, Callable], form: Optional[Callable] = None) -> Column:
    """Returns a column of numbers."""
    return Column(title, key, form, "number")


class Table(NamedTuple):
    """A table whose cells are text: its columns, rows, and a note below it."""

    columns: Sequence[Column]
    rows: list[list[Any]]
    note: str = ""


def table(columns: Sequence[Column], rows: Iterable[Any], note: str = "") -> Table:
    """Fills a table."""
    return Table(columns, [[column.cell(row) for column in columns] for row in rows], note)


def markdown(filled: Table) -> str:
    """Renders a table as Markdown, without its note."""
    rules = ["---:" if column.kind == "number" else "---" for column in filled.columns]
    lines = [[column.title for column in filled.columns], rules, *filled.rows]
    return "\n".join("| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines)


def markdown_cell(text: Any) -> str:
    """Returns text that cannot end a cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", "<br>")


def distances(labels: Sequence[str], pairs: Iterable[dict], note: str) -> Table:
    """Returns the table of all pairs' distances, its columns named by the rows' numbers."""
    found = {frozenset((pair["a"], pair["b"])): pair["distance"] for pair in pairs}
    columns = [number("", "number"), Column("Parameters at the end", "label", None, "name")]
    columns += [
        number(str(place), lambda row, b=b: found.get(frozenset((row["label"], b)), "·"), _distance)
        for place, b in enumerate(labels, start=1)
    ]
    rows = [{"number": place, "label": label} for place, label in enumerate(labels, start=1)]
    return table(columns, rows, note)


def _distance(value: Any) -> str:
    return value if value == "·" else power(value)
