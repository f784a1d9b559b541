"""What commands share: exit statuses, errors without a stack trace, arguments, tables."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ms_adam.lab.errors import UserError

NOT_HELD = 1
ERROR = 2
NOT_AVAILABLE = 3
INTERRUPTED = 130  # what shells give for Ctrl-C

DEBUG = typer.Option(False, "--debug", help="Show the stack trace of an error.")

_COLOURS = {
    **dict.fromkeys(("held", "equal", "reproduced"), "green"),
    **dict.fromkeys(("not held", "not reproduced"), "red"),
}


def json_copy(name: str) -> Any:
    """Returns --json FILE, for a command that writes DIR/`name` anyway."""
    return typer.Option(None, "--json", metavar="FILE", help=f"Also write DIR/{name} to FILE.")


@contextlib.contextmanager
def errors_told(debug: bool) -> Iterator[None]:
    """Turns an exception into one message and an exit status.

    SIGTERM counts as Ctrl-C, so that worker processes are ended too.
    """

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "stopped", debug, INTERRUPTED)
    except UserError as error:
        _fail(str(error), debug)
    except OSError as error:
        what = "must be a folder" if isinstance(error, FileExistsError) else error.strerror
        _fail(f"{error.filename}: {what}" if error.filename else str(error), debug)
    except Exception as error:  # a fault of ours; still no stack trace unless it is asked for
        _fail(f"{type(error).__name__}: {error} (--debug shows where)", debug)


def _fail(message: str, debug: bool, status: int = ERROR) -> None:
    if debug:
        traceback.print_exc()
    print(f"ms-adam: {message}", file=sys.stderr)
    raise typer.Exit(status)


def write_copy(path: Optional[Path], content: dict[str, Any]) -> None:
    """Writes the file of --json, whole or not at all, if it was given."""
    if path is not None:
        from ms_adam.lab.run.results import write_json

        write_json(path, content)


def table(titles: Iterable[str], rows: Iterable[Sequence[Any]], **options: Any) -> Table:
    """Returns a table whose cells are text, without markup; the first column is never broken."""
    made = Table(**options)
    for place, title in enumerate(titles):
        made.add_column(title, no_wrap=place == 0, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def status_text(status: str, otherwise: str = "yellow") -> Text:
    """Returns the status of a verdict in its colour."""
    return Text(status, style=_COLOURS.get(status, otherwise))


def show_verdicts(verdicts: Sequence[dict[str, Any]]) -> None:
    """Prints the table of verdicts and how many claims held."""
    if not verdicts:
        return
    names = ("figure", "claim", "measured", "limit")
    shown = [n for n in names if any(isinstance(verdict.get(n), str) for verdict in verdicts)]
    rows = (
        [status_text(verdict["status"]), *(verdict.get(name) or "" for name in shown)]
        for verdict in verdicts
    )
    Console().print(table(("verdict", *shown), rows, show_lines=True))
    statuses = [verdict["status"] for verdict in verdicts]
    if set(statuses) <= {"held", "not held", "not measured"}:
        print(f"{statuses.count('held')} of {len(statuses)} claims held.")
    else:
        counts = (f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
        print(f"{', '.join(counts)}.")
