"""Tables as data: columns that read the rows of a result. HTML and Markdown render them.

The text of a cell may hold ``**bold**``, ```code``` and line breaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from ms_adam.lab.report.html import percent, power
from ms_adam.lab.run.results import markdown

ABSENT = "–"


class Column(NamedTuple):
    """A column of a table."""

    title: str  # its heading
    # A key of the row, or a function of it. None as the value gives a dash.
    key: Union[str, Callable[[Any], Any]]
    form: Optional[Callable[[Any], str]] = None  # how the value is written; as it is if not given
    kind: str = ""  # "number", aligned to the right; "name", on one line; "long", broken anywhere

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


def rendered(filled: Table) -> str:
    """Renders a table as Markdown, without its note."""
    rules = ["---:" if column.kind == "number" else "---" for column in filled.columns]
    return markdown([column.title for column in filled.columns], filled.rows, rules)


def grouped(rows: Iterable[dict], key: str) -> dict[Any, list[dict]]:
    """Returns rows by their value of a key, such as those of all seeds of a label, in order."""
    groups: dict[Any, list[dict]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def over_seeds(statistic: Callable, key: str) -> Callable[[list[dict]], Any]:
    """Returns the value of a column: a statistic of rows' numbers, None if they have none."""

    def value(rows: list[dict]) -> Any:
        numbers = [float(row[key]) for row in rows if row[key] is not None]  # "nan" too
        return statistic(numbers) if numbers else None

    return value


def percent_range(shares: Sequence[float]) -> str:
    """Writes the range of shares."""
    return f"{percent(min(shares))} to {percent(max(shares))}"


_DISTANCES_NOTE = (
    "||difference|| / ||distance travelled from the first parameters||, Euclidean, the largest "
    "over the seeds; 0 means equal bits."
)


def distances(rows: Iterable[dict], pairs: Iterable[dict], more: str = "") -> Table:
    """Returns the distances of all pairs of rows' labels; the rows' numbers name the columns.

    The note says what they are, and `more`.
    """
    found = {frozenset((pair["a"], pair["b"])): power(pair["distance"]) for pair in pairs}
    labels = list(dict.fromkeys(row["label"] for row in rows))
    columns = [
        number("", lambda row: row[0]),
        Column("Parameters at the end", lambda row: row[1], None, "name"),
    ]
    columns += [
        number(str(place), lambda row, b=b: found.get(frozenset((row[1], b)), "·"))
        for place, b in enumerate(labels, start=1)
    ]
    return table(columns, enumerate(labels, start=1), f"{_DISTANCES_NOTE} {more}".rstrip())
