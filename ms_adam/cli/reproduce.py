"""``ms-adam reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ms_adam.cli.ending import DEBUG, NOT_HELD, errors_told


def reproduce(
    configs: list[Path] = typer.Argument(
        ...,
        metavar="CONFIG...",
        help="One or more YAML files, such as configs/quick.yaml and configs/sparse_text.yaml.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", help="Where to write; results in it are replaced."
    ),
    json_file: Optional[Path] = typer.Option(
        None, "--json", metavar="FILE", help="Also write DIR/results.json to FILE."
    ),
    debug: bool = DEBUG,
) -> None:
    """Run experiments and write DIR/index.html: verdicts, plots, tables, environment.

    Trains with each optimizer in graph mode and in PyNative mode, from one initialisation and one
    batch order. Experiments on images hold every run to NumPy in float64; those on text (kind:
    sparse_text) hold row-sparse gradients to dense ones, and both to mindspore.nn.Adam.

    Example: ms-adam reproduce configs/quick.yaml --out runs/quick

    Exit status: 0 if every claim held, 1 if one did not or could not be measured, 2 after an
    error, 130 after Ctrl-C.
    """
    from ms_adam.experiments import kinds, runner
    from ms_adam.experiments.progress import ProgressDisplay
    from ms_adam.report.html import write_report

    with errors_told(debug):
        experiments = [kinds.load_experiment(path) for path in configs]
        with ProgressDisplay(Console(stderr=True)) as progress:
            content = runner.reproduce(experiments, out, progress)
        page = write_report(out)
        if json_file is not None:
            runner.write_json(json_file, content)
    verdicts = [verdict for entry in content["results"] for verdict in entry["verdicts"]]
    _show(verdicts, page)
    if not all(verdict["status"] == "held" for verdict in verdicts):
        raise typer.Exit(NOT_HELD)


def _show(verdicts: list[dict], page: Path) -> None:
    table = Table(show_lines=True)
    for title in ("verdict", "claim", "measured", "limit"):
        table.add_column(title, no_wrap=title == "verdict")
    for verdict in verdicts:
        colour = {"held": "green", "not held": "red"}.get(verdict["status"], "yellow")
        words = (Text(verdict[name]) for name in ("claim", "measured", "limit"))
        table.add_row(Text(verdict["status"], style=colour), *words)
    Console().print(table)
    held = sum(verdict["status"] == "held" for verdict in verdicts)
    print(f"{held} of {len(verdicts)} claims held. The report: {page}")
