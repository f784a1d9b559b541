"""``ms-adam train-distributed``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ms_adam.lab.cli.common import DEBUG, NOT_HELD, config_like, errors_told, json_copy


def train_distributed(
    config: Path = config_like("configs/distributed.yaml"),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", help="Where to write; results in it are replaced."
    ),
    resume: bool = typer.Option(
        False,
        "--resume",
        help="Go on from the newest good checkpoints in DIR, such as after a "
        "rank was lost or Ctrl-C.",
    ),
    json_file: Optional[Path] = json_copy("results.json"),
    debug: bool = DEBUG,
) -> None:
    """Train data-parallel under msrun, and hold it to one process on the joined batch.

    Makes each training of CONFIG with one process and with each number of workers, with whole and
    with sharded optimizer state. All ranks must end with the same parameters bit for bit, those of
    one process within 1e-6, and sharded state must change no bit.

    If a rank is lost, msrun kills the others, the command says which one it was and ends; the
    trainings go on with --resume.

    Example: ms-adam train-distributed configs/distributed.yaml --out runs/distributed

    Exit status: 0 if every claim held, 1 if one did not, 2 after an error, such as a lost rank, 130
    after Ctrl-C.
    """
    with errors_told(debug):
        os.environ.setdefault("GLOG_v", "3")  # MindSpore's errors, not its advice
        from ms_adam.lab.run.config import load
        from ms_adam.lab.run.progress import ProgressDisplay
        from ms_adam.lab.run.results import write_json
        from ms_adam.lab.studies.ranks import runner
        from ms_adam.lab.studies.ranks.config import Distributed

        run = load(config, Distributed)
        with ProgressDisplay(Console(stderr=True)) as progress:
            content = runner.train(run, out, resume, progress)
        if json_file is not None:
            write_json(json_file, content)
    verdicts = content["results"][0]["verdicts"]
    table = Table(show_lines=True)
    for title in ("verdict", "claim", "measured", "limit"):
        table.add_column(title, no_wrap=title == "verdict")
    for verdict in verdicts:
        status = Text(verdict["status"], style="green" if verdict["status"] == "held" else "red")
        table.add_row(status, *(Text(verdict[name]) for name in ("claim", "measured", "limit")))
    Console().print(table)
    held = sum(verdict["status"] == "held" for verdict in verdicts)
    print(f"{held} of {len(verdicts)} claims held. All numbers: {out / 'results.json'}")
    if held < len(verdicts):
        raise typer.Exit(NOT_HELD)
