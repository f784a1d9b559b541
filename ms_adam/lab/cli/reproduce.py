"""``ms-adam reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ms_adam.lab.cli.common import DEBUG, NOT_HELD, errors_told, json_copy


def reproduce(
    configs: list[Path] = typer.Argument(
        ...,
        metavar="CONFIG...",
        help="One or more YAML files, such as configs/quick.yaml and configs/sparse_text.yaml.",
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
    debug: bool = DEBUG,
) -> None:
    """Run experiments and write DIR/index.html: verdicts, plots, tables, environment.

    Trains with each optimizer in graph mode and in PyNative mode, from one initialisation and one
    batch order. Experiments on images hold every run to NumPy in float64; those on text (kind:
    sparse_text) hold row-sparse gradients to dense ones, and both to mindspore.nn.Adam.

    The figures of the paper (configs/paper/, kind: paper_figure) make a report of their own. Runs
    that are done are kept in DIR/cache: after Ctrl-C the same command goes on from there.

    Example: ms-adam reproduce configs/quick.yaml --out runs/quick

    Example: ms-adam reproduce configs/paper/*.yaml --scale quick --out runs/paper

    Exit status: 0 if every claim held, 1 if one did not or could not be measured, 2 after an
    error, 130 after Ctrl-C. A figure of the paper that is not reproduced is a finding: 0.
    """
    from ms_adam.lab.report.studies import images, text
    from ms_adam.lab.run import config
    from ms_adam.lab.run.progress import ProgressDisplay
    from ms_adam.lab.run.results import write_json
    from ms_adam.lab.studies import kinds
    from ms_adam.lab.studies import reproduce as runner

    with errors_told(debug):
        if _are_studies(configs):
            _reproduce_studies(configs, out, json_file)
            return
        if _are_paper_figures(configs):
            _reproduce_paper(configs, out, scale or "standard", jobs, tensorboard, json_file)
            return
        for option, given in (("--scale", scale), ("--jobs", jobs), ("--tensorboard", tensorboard)):
            if given:
                raise config.ConfigError(
                    f"{option} is for the configs of the paper's figures (configs/paper/) alone"
                )
        experiments = [kinds.load_experiment(path) for path in configs]
        with ProgressDisplay(Console(stderr=True)) as progress:
            content = runner.reproduce(experiments, out, progress)
        kind = content["results"][0].get("config", {}).get("kind", "images")
        page = (text if kind == "sparse_text" else images).write_page(out)
        if json_file is not None:
            write_json(json_file, content)
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


def _are_studies(configs: list[Path]) -> bool:
    from ms_adam.lab.run.config import read

    contents = [read(path) for path in configs]
    return all(isinstance(content, dict) and "study" in content for content in contents)


def _reproduce_studies(configs: list[Path], out: Path, json_file: Optional[Path]) -> None:
    from ms_adam.lab import studies
    from ms_adam.lab.claims import all_held
    from ms_adam.lab.cli.common import show_verdicts, write_copy
    from ms_adam.lab.run.progress import ProgressDisplay
    from ms_adam.lab.run.study import Session, run_studies

    console = Console(stderr=True)
    found = [studies.find(path) for path in configs]
    with ProgressDisplay(console) as progress:
        done = run_studies(found, Session(out, progress, console.print, {}))
    write_copy(json_file, done[0].content)
    verdicts = [verdict for of in done for verdict in of.study.verdicts(of.content)]
    show_verdicts(verdicts)
    for of in done:
        print(f"The report: {of.page or of.folder}")
    if not all_held(verdicts):
        raise typer.Exit(NOT_HELD)


def _are_paper_figures(configs: list[Path]) -> bool:
    from ms_adam.lab.run.config import ConfigError
    from ms_adam.lab.studies.paper.config import KIND, is_paper_figure

    found = {path: is_paper_figure(path) for path in configs}
    if len(set(found.values())) > 1:
        other = next(path for path, is_one in found.items() if not is_one)
        raise ConfigError(
            f"{other}: has not kind: {KIND}, as other configs here have; the paper's "
            "figures make a report of their own, so give them in a call of their own"
        )
    return all(found.values())


def _reproduce_paper(
    configs: list[Path],
    out: Path,
    scale: str,
    jobs: Optional[int],
    tensorboard: bool,
    json_file: Optional[Path],
) -> None:
    from ms_adam.lab.report.studies.paper import write_report
    from ms_adam.lab.run.results import write_json
    from ms_adam.lab.studies.paper import config, runner
    from ms_adam.lab.studies.paper.progress import Bars
    from ms_adam.lab.studies.paper.tensorboard import EventFiles

    figures = [config.load_figure(path) for path in configs]
    event_files = EventFiles(out / "tensorboard") if tensorboard else None
    with Bars(Console(stderr=True)) as progress:
        content = runner.reproduce(
            figures,
            scale,
            out,
            progress,
            event_files.write if event_files else None,
            workers=jobs or runner.workers_here(),
        )
    page = write_report(out)
    if json_file is not None:
        write_json(json_file, content)
    table = Table(show_lines=True)
    for title in ("verdict", "figure", "claim"):
        table.add_column(title, no_wrap=title == "verdict")
    colours = {"reproduced": "green", "not reproduced": "red"}
    for entry in content["results"]:
        for verdict in entry["verdicts"]:
            status = Text(verdict["status"], style=colours.get(verdict["status"], "yellow"))
            table.add_row(status, entry["figure"], Text(verdict["claim"]))
    Console().print(table)
    if event_files:
        print(f"Event files: tensorboard --logdir {event_files.folder}")
    print(f"The report: {page}")
