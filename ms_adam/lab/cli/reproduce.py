"""``ms-adam reproduce``."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Optional

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ms_adam.lab.cli.ending import DEBUG, NOT_HELD, errors_told
from ms_adam.lab.cli.options import json_copy


def reproduce(
    configs: list[Path] = typer.Argument(
        ...,
        metavar="CONFIG...",
        help="One or more YAML files, such as configs/quick.yaml and configs/text.yaml.",
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", help="Where to write; results in it are replaced."
    ),
    json_file: Optional[Path] = json_copy("results.json"),
    scale: Optional[str] = typer.Option(
        None,
        "--scale",
        metavar="quick|standard|full",
        help="For configs/paper/: how much of a figure is run. quick takes 2 minutes for all "
        "six, standard an hour and more on two cores, full (the paper's epochs) weeks; standard if "
        "not given.",
    ),
    jobs: Optional[int] = typer.Option(
        None,
        "--jobs",
        metavar="N",
        min=1,
        help="For configs/paper/: how many runs to make at a time, each on one "
        "core; as many as there are cores if not given.",
    ),
    tensorboard: bool = typer.Option(
        False,
        "--tensorboard",
        help="For configs/paper/: also write DIR/tensorboard/ (needs tensorboardX).",
    ),
    resume: bool = typer.Option(
        False,
        "--resume",
        help="For configs/ranks.yaml: go on from the newest good checkpoints in DIR, such as after "
        "a rank was lost or Ctrl-C.",
    ),
    debug: bool = DEBUG,
) -> None:
    """Run experiments and write DIR/index.html: verdicts, plots, tables, environment.

    Trains with each optimizer in graph mode and in PyNative mode, from one initialisation and one
    batch order. Experiments on images hold every run to NumPy in float64; those on text (study:
    text) hold row-sparse gradients to dense ones, and both to mindspore.nn.Adam.

    The figures of the paper (configs/paper/) make a report of their own. Runs
    that are done are kept in DIR/cache: after Ctrl-C the same command goes on from there.

    Example: ms-adam reproduce configs/quick.yaml --out runs/quick

    Example: ms-adam reproduce configs/paper/*.yaml --scale quick --out runs/paper

    Exit status: 0 if every claim held, 1 if one did not or could not be measured, 2 after an
    error, 130 after Ctrl-C. A figure of the paper that is not reproduced is a finding: 0.
    """
    from ms_adam.lab import studies
    from ms_adam.lab.claims import all_held
    from ms_adam.lab.run.progress import ProgressDisplay
    from ms_adam.lab.run.results import write_json
    from ms_adam.lab.run.study import Session, run_studies

    with errors_told(debug):
        found = [studies.find(path) for path in configs]
        given = {"scale": scale, "jobs": jobs, "tensorboard": tensorboard, "resume": resume}
        options = {name: value for name, value in given.items() if value}
        studies.refuse_unknown_options([study for study, _ in found], options)
        os.environ.setdefault("GLOG_v", "3")  # MindSpore's errors, not its advice
        with ProgressDisplay(Console(stderr=True)) as progress:
            session = Session(out, progress, partial(print, file=sys.stderr), options)
            (done, *_) = run_studies(found, session)
            content, page, verdicts = done.content, done.page, done.study.verdicts(done.content)
        if json_file is not None:
            write_json(json_file, content)
    _show(verdicts, page)
    if not all_held(verdicts):
        raise typer.Exit(NOT_HELD)


_COLOURS = {"held": "green", "reproduced": "green", "not held": "red", "not reproduced": "red"}


def _show(verdicts: list[dict], page: Optional[Path]) -> None:
    table = Table(show_lines=True)
    columns = [
        name
        for name in ("figure", "claim", "measured", "limit")
        if all(isinstance(verdict.get(name), str) for verdict in verdicts)
    ]
    for title in ("verdict", *columns):
        table.add_column(title, no_wrap=title == "verdict")
    for verdict in verdicts:
        colour = _COLOURS.get(verdict["status"], "yellow")
        words = (Text(verdict[name]) for name in columns)
        table.add_row(Text(verdict["status"], style=colour), *words)
    Console().print(table)
    held = sum(verdict["status"] == "held" for verdict in verdicts)
    if "limit" in columns:
        print(f"{held} of {len(verdicts)} claims held.")
    if page is not None:
        print(f"The report: {page}")
