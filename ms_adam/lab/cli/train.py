"""``ms-adam train``."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Optional

import typer
from rich.console import Console

from ms_adam.lab.cli.common import DEBUG, config_like, errors_told, json_copy


class Mode(str, enum.Enum):
    graph = "graph"
    pynative = "pynative"


def train(
    config: Path = config_like("configs/train.yaml"),
    mode: Mode = typer.Option(
        Mode.graph,
        "--mode",
        help="Compile each step, or run it operator by operator. The losses "
        "are the same; graph is quicker.",
    ),
    out: Optional[Path] = typer.Option(
        None,
        "--out",
        metavar="DIR",
        help="The training's folder. Default: runs/NAME, with the name in CONFIG.",
    ),
    resume: bool = typer.Option(
        False,
        "--resume",
        help="Go on from the newest good checkpoint in DIR; from the first step if there is none.",
    ),
    json_file: Optional[Path] = json_copy("train.json"),
    debug: bool = DEBUG,
) -> None:
    """Train a classifier with ms_adam; stop it whenever you like, and go on with --resume.

    DIR gets loss.csv (the loss of every step), accuracy.csv (on the test images,
    after every epoch), curves.png, train.json, and checkpoints/step-*.ckpt, which
    mindspore.load_checkpoint reads.

    A checkpoint is written under another name and renamed: a half-written one is
    never taken for whole. One that is damaged later is found by its CRC: --resume
    takes the one before, and says so. A resumed training has the losses of an
    undisturbed one, bit for bit; ms-adam kill-test shows it on your machine.

    Example: ms-adam train configs/train.yaml --out runs/train

    And after Ctrl-C, kill -9 or a power cut: the same with --resume.

    Exit status: 0 when all steps are done, 2 after an error, 130 after Ctrl-C.
    """
    from ms_adam.lab.run.progress import ProgressDisplay
    from ms_adam.lab.studies.resume.config import load_training

    console = Console(stderr=True)

    def tell(message: str) -> None:
        console.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)

    with errors_told(debug):
        run = load_training(config)
        folder = out or Path("runs") / run.name
        os.environ.setdefault("GLOG_v", "3")  # MindSpore's errors, not its advice
        # Imported last, for it takes seconds.
        from ms_adam.lab.report.studies.resume import write_page
        from ms_adam.lab.run.results import write_json
        from ms_adam.lab.run.worker import enter
        from ms_adam.lab.studies.resume import runner

        enter(mode.value)
        with ProgressDisplay(console) as progress:
            content = runner.train(run, mode.value, folder, resume, tell, progress)
        write_page(folder)
        if json_file is not None:
            write_json(json_file, content)
    result = content["results"][0]
    print(
        f"{result['steps']} steps, backend {result['backend']}: loss {result['first_loss']:.4g} "
        f"at first, {result['last_loss']:.4g} at last; {result['test_accuracy']:.1%} of the test "
        f"images told right. Written: {folder}"
    )
