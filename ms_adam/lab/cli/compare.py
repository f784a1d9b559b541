"""``ms-adam compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from rich.console import Console

from ms_adam.lab.cli import common


def compare(
    config: Path = typer.Argument(
        ..., metavar="CONFIG", help="A YAML file; see configs/compare.yaml."
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", help="Where to write; an earlier comparison is replaced."
    ),
    json_file: Optional[Path] = common.json_copy("compare.json"),
    debug: bool = common.DEBUG,
) -> None:
    """Find the first step and tensor at which two trainings part, and what parted first.

    Runs one training, from one initialisation and one batch order, under each side that CONFIG
    names (mode, optimizer, backend, dtype, MindSpore options), each in a process of its own. Two
    sides part where roundings do not explain a step: an update that is not the formula's from the
    side's own state and gradient, or a gradient that is not the network's at the side's own
    weights. Both have bounds, so that no noise has to be measured and none is judged.
    Writes DIR/index.html and DIR/compare.json.

    Example: ms-adam compare configs/compare.yaml --out runs/compare

    A training script of yours: examples/compare_own.py shows the function it takes.

    Exit status: 0 if every pair that must hold does, 1 if one parts, 2 after
    an error, 130 after Ctrl-C.
    """
    from ms_adam.lab.report.studies.compare import write_page
    from ms_adam.lab.run.config import load
    from ms_adam.lab.run.progress import ProgressDisplay
    from ms_adam.lab.studies.compare import run
    from ms_adam.lab.studies.compare.config import Comparison

    with common.errors_told(debug):
        comparison = load(config, Comparison)
        with ProgressDisplay(Console(stderr=True)) as progress:
            content = run.compare(comparison, out, progress)
        page = write_page(out)
        common.write_copy(json_file, content)
    _show(content["results"][0]["pairs"])
    print(f"The report: {page}")
    if run.parted(content):
        raise typer.Exit(common.NOT_HELD)


def _show(pairs: list[dict]) -> None:
    rows = (
        (
            common.status_text(pair["status"], "red" if pair["must_hold"] else "yellow"),
            pair["sentence"],
        )
        for pair in pairs
    )
    Console().print(common.table(("status", "verdict"), rows, show_lines=True))
