"""The ``ms-adam`` command: parses arguments, calls the lab, and prints the outcome.

One module for each command. A command imports the lab when it runs, so that --help is quick.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):  # noqa: UP036  before anything that such a Python reads differently
    sys.exit(
        "ms-adam needs Python 3.9 or newer, but this is Python "
        f"{sys.version_info[0]}.{sys.version_info[1]}. The optimizer runs here: import ms_adam."
    )

import importlib.metadata

try:
    import typer

    from ms_adam.lab.cli.bench import bench
    from ms_adam.lab.cli.compare import compare
    from ms_adam.lab.cli.identify import identify
    from ms_adam.lab.cli.reproduce import reproduce
    from ms_adam.lab.cli.validate import validate
    from ms_adam.lab.cli.watch import watch
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
    try:
        release = importlib.metadata.version("mindspore")
    except importlib.metadata.PackageNotFoundError:  # reported by the code that needs it
        return
    # From the metadata, not from ms_adam.compat: importing MindSpore takes seconds.
    if tuple(map(int, release.split(".")[:2])) < (2, 7):
        sys.exit(
            f"ms-adam needs MindSpore 2.7 or newer, but this is MindSpore {release}. The "
            "optimizer runs here: import ms_adam."
        )


for command in (identify, watch, compare, validate, bench, reproduce):
    app.command()(command)


def main() -> None:
    """The entry point of the ``ms-adam`` command."""
    app()
