"""The ``ms-adam`` command: reads arguments, calls, and says how it went. It computes nothing."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
import traceback
from pathlib import Path
from typing import Optional

try:
    import typer
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as missing:
    sys.exit(f"ms-adam needs the package {missing.name}: pip install 'ms_adam[cli]'")

app = typer.Typer(
    name="ms-adam",
    help="The Adam optimizer of the paper for MindSpore, and the proof that it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_EXIT_NOT_HELD = 1
_EXIT_ERROR = 2
_EXIT_INTERRUPTED = 130  # what shells give for Ctrl-C


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ms-adam {importlib.metadata.version('ms_adam')}")
        raise typer.Exit()


@app.callback()
def _command(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


@app.command()
def reproduce(
    configs: list[Path] = typer.Argument(
        ..., metavar="CONFIG...", help="One or more YAML files; see configs/quick.yaml."
    ),
    out: Path = typer.Option(
        ..., "--out", metavar="DIR", help="Where to write; results in it are replaced."
    ),
    json_file: Optional[Path] = typer.Option(
        None, "--json", metavar="FILE", help="Also write DIR/results.json to FILE."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the stack trace of an error."),
) -> None:
    """Run experiments and write DIR/index.html: verdicts, plots, tables, environment.

    Trains with each optimizer in graph mode and in PyNative mode, from one initialisation and one
    batch order, and holds every run to NumPy in float64.

    Example: ms-adam reproduce configs/quick.yaml --out runs/quick

    Exit status: 0 if every claim held, 1 if one did not or could not be measured, 2 after an
    error, 130 after Ctrl-C.
    """
    # Imported here, so that --help is quick.
    from ms_adam.experiments import ExperimentError, config, runner
    from ms_adam.experiments.progress import ProgressDisplay
    from ms_adam.report.html import write_report

    def stop(*_) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)  # as Ctrl-C: the workers are ended too
    status = Console(stderr=True)
    try:
        experiments = [config.load_experiment(path) for path in configs]
        with ProgressDisplay(status) as progress:
            content = runner.reproduce(experiments, out, progress)
        page = write_report(out)
        if json_file is not None:
            runner.write_json(json_file, content)
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "stopped", debug, _EXIT_INTERRUPTED)
    except (ExperimentError, OSError) as error:
        _fail(str(error), debug)
    except Exception as error:  # a fault of ours; still no stack trace unless it is asked for
        _fail(f"{type(error).__name__}: {error} (--debug shows where)", debug)
    verdicts = [verdict for entry in content["results"] for verdict in entry["verdicts"]]
    _show(verdicts, page)
    if not all(verdict["status"] == "held" for verdict in verdicts):
        raise typer.Exit(_EXIT_NOT_HELD)


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


def _fail(message: str, debug: bool, status: int = _EXIT_ERROR) -> None:
    if debug:
        traceback.print_exc()
    print(f"ms-adam: {message}", file=sys.stderr)
    raise typer.Exit(status)


def main() -> None:
    """The entry point of the ``ms-adam`` command."""
    app()
