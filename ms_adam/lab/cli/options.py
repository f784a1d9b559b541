"""Arguments that several commands take, in the same words."""

from __future__ import annotations

import typer


def config_like(example: str):
    """The CONFIG of a command; `example` is where one is found."""
    return typer.Argument(..., metavar="CONFIG", help=f"A YAML file; see {example}.")


def json_copy(name: str):
    """--json FILE, for a command that writes DIR/`name` anyway."""
    return typer.Option(None, "--json", metavar="FILE", help=f"Also write DIR/{name} to FILE.")
