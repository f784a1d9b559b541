"""``ms-adam validate``."""

from __future__ import annotations

import enum
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Optional

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ms_adam.lab.cli.common import DEBUG, NOT_AVAILABLE, NOT_HELD, errors_told, table, write_copy

_SECONDS_BETWEEN_LINES = 5
_MOST_NOTES = 20

Target = enum.Enum("Target", {name: name for name in ("CPU", "GPU", "Ascend")}, type=str)


def validate(
    device_target: Target = typer.Option(
        "CPU", case_sensitive=False, help="Where MindSpore is to compute."
    ),
    only: str = typer.Option(
        "",
        metavar="TEXT",
        help="Run the cells that have all these words in the name of their option, dtype, mode or "
        "backend, as 'amsgrad float16' or 'pynative fused flat'.",
    ),
    out: Path = typer.Option(
        Path("runs/validate"),
        metavar="DIR",
        help="Where validate.json and the logs go; those in it are replaced. validate.json is "
        "written after each cell.",
    ),
    json_file: Optional[Path] = typer.Option(
        None,
        "--json",
        metavar="FILE",
        help="Write the results to FILE in place of DIR/validate.json.",
    ),
    markdown: bool = typer.Option(
        False, "--markdown", help="Print nothing but the table of support, for a README."
    ),
    workers: Optional[int] = typer.Option(
        None,
        min=1,
        metavar="N",
        help="Processes at a time. Default: one for each core; 1 on GPU and Ascend.",
    ),
    debug: bool = DEBUG,
) -> None:
    """Prove every option on this machine: option x dtype x mode x backend.

    Each cell makes some steps with gradients of all sizes. Every element of weights and moments is
    held to NumPy in float64 within a bound that counts the roundings of one step, and, with
    epsilon_hat=True, to mindspore.nn.Adam within both sides' roundings, wherever that runs.

    A cell held; fell short; is not offered by its backend; or is not available on this device.
    Where nn.Adam cannot run, or is farther from its own formula than its roundings explain, the
    result says so. Shares are the largest distance of any element over its bound: up to 1 is held.

    A run that is stopped leaves the results of the cells judged so far; "complete" in validate.json
    is then false.

    Example: ms-adam validate --only 'amsgrad float32'

    Exit status: 0 if everything that ran held, 1 if something fell short, 2 after an error, 3 if
    nothing could run, above all because the device is not there, 130 after Ctrl-C.
    """
    from ms_adam.lab.report.studies.support import support_table
    from ms_adam.lab.studies.matrix import validate as matrix

    path = json_file or out / "validate.json"

    with errors_told(debug):
        cells = matrix.select(only)
        console = Console(stderr=True)
        with _Display(console, cells) as display:
            try:
                content = matrix.validate(
                    cells,
                    device_target.value,
                    out,
                    workers=workers,
                    tell=display.tell,
                    save=partial(write_copy, path),
                )
            except KeyboardInterrupt as interrupt:
                raise KeyboardInterrupt(f"stopped; results so far: {path}") from interrupt
    results = content["results"]
    if markdown:
        print(support_table(results))
    else:
        _show_troubles(results)
    summary = ", ".join(f"{number:,} {status}" for status, number in matrix.count(results).items())
    print(f"{summary}. Results: {path}", file=console.file if markdown else None)
    passed = matrix.passed(results)
    if passed is not True:
        raise typer.Exit(NOT_AVAILABLE if passed is None else NOT_HELD)


_TITLES = (
    "backend",
    "dtype",
    "left",
    "held to\nfloat64",
    "held to\nnn.Adam",
    "fell\nshort",
    "not\noffered,\nnot here",
    "nn.Adam\ncannot,\ndiffers",
)


class _Display:
    """A live table in a terminal, a line every few seconds where there is none."""

    def __init__(self, console: Console, cells: list):
        self._console, self._last_line = console, time.monotonic()
        self._left = Counter((cell.backend, cell.dtype) for cell in cells)
        backends = [backend for backend, _ in self._left]
        rows = sorted(self._left, key=lambda row: backends.index(row[0]))
        self._results: dict = {row: [] for row in rows}
        self._bar = Progress(
            "cells",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            "left:",
            TimeRemainingColumn(),
        )
        self._bar.add_task("cells", total=len(cells))
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> _Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()
        if self._bar.tasks[0].completed and not self._console.is_terminal:
            self._console.print(self._table())

    def tell(self, cell: Any, results: list[dict]) -> None:
        """Takes a cell that was judged."""
        key = (cell.backend, cell.dtype)
        self._results[key] += results
        self._left[key] -= 1
        (bar,) = self._bar.tasks
        self._bar.advance(bar.id)
        now = time.monotonic()
        if not self._live.is_started and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._console.print(f"{bar.completed:,.0f} of {bar.total:,} cells")

    def _render(self) -> Group:
        return Group(self._table(), self._bar)

    def _table(self) -> Table:
        rows = (_row(*row, self._left[row], results) for row, results in self._results.items())
        made = table(
            _TITLES,
            rows,
            box=SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            caption="In brackets: the worst distance as a share of its bound.",
        )
        for place, column in enumerate(made.columns):
            column.no_wrap, column.justify = True, "left" if place < 2 else "right"
        return made


def _row(backend: str, dtype: str, left: int, results: list[dict]) -> list[Text]:
    from ms_adam.lab.studies.matrix import cell_worker as words

    counts = Counter(result["status"] for result in results)

    def number(*statuses: str, style: str = "yellow") -> Text:
        found = [counts[status] for status in statuses]
        return Text(", ".join(f"{n:,}" for n in found) if any(found) else "", style=style)

    def held(against: str) -> Text:
        shares = [
            result["share"]
            for result in results
            if (result["against"], result["status"]) == (against, words.HELD)
        ]
        return Text(f"{len(shares):,} ({max(shares):.2f})" if shares else "", style="green")

    return [
        Text(backend),
        Text(dtype),
        Text(f"{left:,}" if left else ""),
        held(words.REFERENCE),
        held(words.NN_ADAM),
        number(words.FELL_SHORT, style="bold red"),
        number(words.NOT_OFFERED, words.NOT_AVAILABLE),
        number(words.NN_ADAM_CANNOT, words.NN_ADAM_DIFFERS),
    ]


def _show_troubles(results: list[dict]) -> None:
    """Prints what fell short, cell by cell, and why everything else did not hold."""
    from ms_adam.lab.studies.matrix.cell_worker import FELL_SHORT, HELD, NN_ADAM_DIFFERS

    short = [result for result in results if result["status"] == FELL_SHORT]
    for result in short[:_MOST_NOTES]:
        name = ", ".join(result[field] for field in ("case", "dtype", "mode", "backend"))
        share = "" if result["share"] is None else f"{result['share']:.3g} times its bound"
        said = "; ".join(filter(None, (share, result["note"])))
        print(f"fell short: {name}, against {result['against']}: {said}")
    if len(short) > _MOST_NOTES:
        print(f"fell short: {len(short) - _MOST_NOTES} more")
    reasons: Counter = Counter()
    for result in results:
        reason = result["note"]
        if result["status"] == NN_ADAM_DIFFERS:
            where = f"{result['case']}, {result['dtype']}"
            reason = f"{where}: {result['share']:,.0f} times the bound on its own roundings"
        if result["status"] not in (HELD, FELL_SHORT):
            reasons[result["status"], reason] += 1
    for (status, reason), number in sorted(reasons.items()):
        print(f"{status} ({number}): {reason}")
