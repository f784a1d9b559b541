"""``ms-adam reproduce``."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Optional

import typer
from rich.console import Console

from ms_adam.lab.cli import common

Mode = enum.Enum("Mode", {"graph": "graph", "pynative": "pynative"}, type=str)


def reproduce(
    context: typer.Context,
    configs: list[Path] = typer.Argument(
        ...,
        metavar="CONFIG...",
        help="YAML files, such as configs/quick.yaml; their key 'study' says what runs.",
    ),
    out: Optional[Path] = typer.Option(
        None,
        metavar="DIR",
        help="Where to write; results in it are replaced. Default: runs/NAME, with the name in "
        "CONFIG, if there is one.",
    ),
    json_file: Optional[Path] = common.json_copy("results.json"),
    scale: Optional[str] = typer.Option(
        None,
        metavar="quick|standard|full",
        help="paper: how much of a figure is run. quick takes 3 minutes for all, standard up to "
        "100 on two cores, full (the paper's epochs) weeks; standard if not given.",
    ),
    jobs: Optional[int] = typer.Option(
        None,
        metavar="N",
        min=1,
        help="paper: number of runs at a time, each on one core; as many as there are cores if not "
        "given.",
    ),
    tensorboard: bool = typer.Option(
        False, "--tensorboard", help="paper: also write DIR/tensorboard/ (needs tensorboardX)."
    ),
    resume: bool = typer.Option(
        False,
        "--resume",
        help="resume, ranks: go on from the newest good checkpoint in DIR; from the first step if "
        "there is none.",
    ),
    mode: Optional[Mode] = typer.Option(
        None,
        help="resume: compile each step (graph, the default), or run it operator by operator. The "
        "losses are the same.",
    ),
    kills: Optional[int] = typer.Option(
        None, min=1, metavar="N", help="resume: kill the training N times instead."
    ),
    every: Optional[int] = typer.Option(
        None,
        min=1,
        metavar="STEPS",
        help="resume --kills: steps between checkpoints, in place of CONFIG's; 5 if not given, so "
        "few that kills meet half-written files.",
    ),
    seed: Optional[int] = typer.Option(
        None, min=0, help="resume --kills: decides the moments; 0 if not given."
    ),
    debug: bool = common.DEBUG,
) -> None:
    """Run studies and write their reports: verdicts, plots, tables, environment.

    images (configs/quick.yaml) trains with each optimizer in graph mode and in PyNative mode, from
    one initialisation and one batch order, and holds every run to NumPy in float64.

    text (configs/text.yaml) holds row-sparse gradients to dense ones, and both to
    mindspore.nn.Adam.

    narrow (configs/narrow.yaml) trains with moments in bfloat16 and int8, and with parameters in
    bfloat16, from five seeds, and holds each final loss to that of float32 state.

    paper (configs/paper/*.yaml) makes the figures of the paper and judges its claims. The lines of
    open claims get more seeds. Finished runs are kept in DIR/cache: after Ctrl-C the same command
    goes on from there.

    ranks (configs/ranks.yaml) trains data-parallel under msrun with each number of workers, with
    whole and with sharded optimizer state. All ranks must end with the same parameters bit for bit,
    those of one process within 1e-6, and sharded state must change no bit. If a rank is lost, msrun
    kills the others, the command says which one it was and ends; the trainings go on with --resume.

    resume (configs/resume.yaml) trains with checkpoints; stop it whenever you like, and go on with
    --resume. DIR gets loss.csv (the loss of every step), accuracy.csv (on the test images, after
    every epoch), curves.png, train.json, and checkpoints/step-*.ckpt, which
    mindspore.load_checkpoint reads. A half-written checkpoint is never taken for whole, and a
    damaged one is found by its CRC: --resume takes the one before, and says so. A resumed training
    has the losses of an undisturbed one, bit for bit: --kills N proves it on your machine. It kills
    the training with kill -9 at random moments and resumes it, again and again, and compares the
    curves and the last checkpoint byte for byte, averages, accumulated gradients and loss scale
    included. About six minutes for 50 kills.

    trajectories (configs/trajectories/*.yaml) follows optimizers over functions of the plane or
    through a linear fit, in NumPy float64 and through MindSpore in float32. DIR gets
    trajectories.json, PNG pictures and, if the config wants them, animated GIFs; and index.html,
    whose surfaces turn, with sliders over the steps and for learning rates and betas. A config can
    name functions and optimizers of your own as module:callable.

    Several studies at once write to DIR/STUDY each.

    Example: ms-adam reproduce configs/quick.yaml --out runs/quick

    Example: ms-adam reproduce configs/paper/*.yaml --scale quick --out runs/paper

    Example: ms-adam reproduce configs/resume.yaml --kills 10 --out runs/kills

    Exit status: 0 if every claim held, 1 if one did not or could not be measured, 2 after an
    error, such as a lost rank, 130 after Ctrl-C. A figure of the paper that is not reproduced is a
    finding: 0.
    """
    from ms_adam.lab import studies
    from ms_adam.lab.claims import all_held
    from ms_adam.lab.run.config import ConfigError
    from ms_adam.lab.run.progress import ProgressDisplay
    from ms_adam.lab.run.study import Session, run_studies

    ours = ("configs", "out", "json_file", "debug")  # the others are for the studies
    options = {
        name: getattr(value, "value", value)  # of a Mode
        for name, value in context.params.items()
        if name not in ours and value is not None and value is not False
    }
    console = Console(stderr=True)

    def tell(message: str) -> None:
        console.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)

    with common.errors_told(debug):
        os.environ.setdefault("GLOG_v", "3")  # MindSpore's errors, not its advice
        found = [studies.find(path) for path in configs]
        studies.refuse_unknown_options([study for study, _ in found], options)
        if out is None:
            if len(found) > 1:
                raise ConfigError("several configs need --out DIR")
            out = Path("runs") / found[0][1].name
        with ProgressDisplay(console) as progress:
            done = run_studies(found, Session(out, progress, tell, options))
        contents = {of.study.name: of.content for of in done}
        common.write_copy(json_file, done[0].content if len(done) == 1 else {"studies": contents})
    verdicts = [verdict for of in done for verdict in of.study.verdicts(of.content)]
    common.show_verdicts(verdicts)
    for of in done:
        summary = of.study.summary(of.content)
        if summary:
            print(summary)
        names = sorted(path.name for path in of.folder.iterdir() if path.name[0] != ".")
        written = f"Written: {of.folder}: {', '.join(names)}"
        print(f"The report: {of.page}" if of.page else written)
    if not all_held(verdicts):
        raise typer.Exit(common.NOT_HELD)
