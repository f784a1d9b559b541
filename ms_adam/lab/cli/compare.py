"""``ms-adam compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ms_adam.lab.cli.ending import DEBUG, NOT_HELD, errors_told
from ms_adam.lab.cli.options import config_like, json_copy


def compare(
    config: Path = config_like("configs/compare.yaml"),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", help="Where to write; an earlier comparison is replaced."
    ),
    json_file: Optional[Path] = json_copy("compare.json"),
    debug: bool = DEBUG,
) -> None:
    """Find the first step and tensor at which two trainings part, and what parted first.

    Does one training, from one initialisation and one batch order, under each side that CONFIG
    names (mode, optimizer, backend, dtype, MindSpore options), each in a process of its own, twice:
    what a side differs from itself is the noise floor. Then feeds one side's weights and gradients
    to the other, to tell whether the gradient or the update parted first. Elements whose gradient
    is rounding noise, as that of an attention's key bias, are named and decide nothing. Writes
    DIR/index.html and DIR/compare.json.

    Example: ms-adam compare configs/compare.yaml --out runs/compare

    A training script of yours: examples/compare_own.py shows the function it takes.

    Exit status: 0 if every pair that must hold stays within its tolerance, 1 if one parts, 2 after
    an error, 130 after Ctrl-C.
    """
    from ms_adam.lab.report.compare import write_page
    from ms_adam.lab.run.progress import ProgressDisplay
    from ms_adam.lab.run.results import write_json
    from ms_adam.lab.studies.compare import run
    from ms_adam.lab.studies.compare.config import load_comparison

    with errors_told(debug):
        comparison = load_comparison(config)
        with ProgressDisplay(Console(stderr=True)) as progress:
            content = run.compare(comparison, out, progress)
        page = write_page(out)
        if json_file is not None:
            write_json(json_file, content)
    _show(content["results"][0]["pairs"])
    print(f"The report: {page}")
    if run.parted(content):
        raise typer.Exit(NOT_HELD)


def _show(pairs: list[dict]) -> None:
    table = Table("status", "verdict", show_lines=True)
    colours = {"equal": "green", "held": "green"}
    for pair in pairs:
        colour = colours.get(pair["status"], "red" if pair["must_hold"] else "yellow")
        verdict = "\n".join([pair["sentence"], *_left_out(pair["gradient_is_rounding_noise"])])
        table.add_row(Text(pair["status"], style=colour), Text(verdict))
    Console().print(table)


def _left_out(entries: list[dict], shown: int = 5) -> list[str]:
    """A line on the elements whose gradient is rounding noise, if there are any."""
    if not entries:
        return []
    tensors = [f"{e['parameter']} ({e['elements']:,} of {e['of']:,})" for e in entries[:shown]]
    more = [f"{len(entries) - shown} more tensors"] if len(entries) > shown else []
    return [f"Gradient is rounding noise, which decides nothing: {', '.join(tensors + more)}"]
