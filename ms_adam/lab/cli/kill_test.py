"""``ms-adam kill-test``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from rich.console import Console

from ms_adam.lab.cli.common import DEBUG, NOT_HELD, errors_told, json_copy
from ms_adam.lab.cli.train import Mode


def kill_test(
    config: Path = typer.Argument(
        ..., metavar="CONFIG", help="A YAML file of ms-adam train; see configs/train.yaml."
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", help="Where to write; an earlier kill test is replaced."
    ),
    kills: int = typer.Option(50, "--kills", min=1, help="How often to kill."),
    every: int = typer.Option(
        5,
        "--every",
        min=1,
        help="Steps between checkpoints, in place of CONFIG's "
        "checkpoints.every_steps: few, so that kills meet half-written files.",
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Decides the moments."),
    mode: Mode = typer.Option(Mode.graph, "--mode", help="The mode to train in."),
    json_file: Optional[Path] = json_copy("kills.json"),
    debug: bool = DEBUG,
) -> None:
    """Kill a training at random moments and see whether it resumes bit for bit.

    Trains once undisturbed. Then trains again, ends the process with kill -9 at a
    random moment, goes on with --resume, and so on until the training is done; then
    the next one, until there were enough kills. The loss of every step and the
    accuracy of every epoch must be those of the undisturbed training, in every byte
    of the files. About six minutes for 50 kills.

    Example: ms-adam kill-test configs/train.yaml --out runs/kills --kills 10

    Exit status: 0 if every curve is the same, 1 if one differs, 2 after an error, 130 after Ctrl-C.
    """
    from ms_adam.lab.run.results import write_json
    from ms_adam.lab.studies.resume import kill_test as test
    from ms_adam.lab.studies.resume.config import load_training

    console = Console(stderr=True)

    def tell(message: str) -> None:
        console.print(message, markup=False, highlight=False, soft_wrap=True)

    with errors_told(debug):
        run = load_training(config)
        checkpoints = run.checkpoints.model_copy(update={"every_steps": every})
        run = run.model_copy(update={"checkpoints": checkpoints})
        content = test.kill_test(run, mode.value, out, kills, seed, tell)
        if json_file is not None:
            write_json(json_file, content)
    result = content["results"][0]
    differing = [
        number
        for number, training in enumerate(result["trainings"], start=1)
        if training["differing"]
    ]
    halves = sum(kill["half_written"] for kill in result["kills"])
    begun = sum(kill["resumed_after"] is not None for kill in result["kills"])
    print(
        f"{len(result['kills'])} kills in {len(result['trainings'])} trainings of "
        f"{result['steps']} steps; {halves} while a checkpoint was being written; {begun} times "
        f"a checkpoint was there to go on from. {len(result['trainings']) - len(differing)} of "
        f"{len(result['trainings'])} curves are those of the undisturbed training, bit for bit."
    )
    if differing:
        shown = ", ".join(f"killed-{number}" for number in differing)
        print(f"These differ: {shown} in {out}")
        raise typer.Exit(NOT_HELD)
