"""``ms-adam identify``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Optional

import typer
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ms_adam.lab.cli.common import DEBUG, NOT_AVAILABLE, NOT_HELD, errors_told
from ms_adam.lab.errors import UserError


def identify(
    target: Optional[str] = typer.Argument(
        None,
        metavar="[module.Class]",
        help="An optimizer class, as mindspore.nn.Adam, or module:factory, any callable that is "
        "given a list of parameters and returns an optimizer; also file.py:factory.",
    ),
    settings: Optional[list[str]] = typer.Option(
        None,
        "--set",
        metavar="NAME=VALUE",
        help="An argument of the optimizer; can be given several times. VALUE is read as YAML: "
        "true, 0.1, [0.9, 0.99].",
    ),
    everything: bool = typer.Option(
        False, "--all", help="Every Adam of MindSpore, ours, and the published forms, in one table."
    ),
    markdown: bool = typer.Option(False, "--markdown", help="Print a Markdown table."),
    json_file: Optional[Path] = typer.Option(
        None, "--json", metavar="FILE", help="Also write what was found to FILE."
    ),
    debug: bool = DEBUG,
) -> None:
    """Find out which formula an optimizer implements.

    Feeds it gradients that tell the ways of writing Adam apart, and holds
    where it takes its parameter to each of them in float64: where epsilon
    stands, which moments are corrected, weight decay, Nesterov, AMSGrad, the
    precision of moments, lazy or exact on sparse rows. SGD, momentum, AdaGrad,
    RMSProp, AdaMax, NAdam and RAdam are named, too.

    An answer that another one explains as well is called ambiguous; what no
    formula explains within rounding is no known formula.

    Takes classes of mindspore.nn, mindspore.experimental.optim, torch.optim
    and ms_adam.reference, your own that derive from them, and whatever
    returns an instance of one.

    Examples:

      ms-adam identify mindspore.nn.Adam

      ms-adam identify mindspore.experimental.optim.Adam --set amsgrad=true

      ms-adam identify my_package.optimizers:make_adam --json found.json

    Exit status: 0 if the formula was found, 1 if it is ambiguous or not
    known, 2 after an error, 3 if the optimizer does not run on this device,
    130 after Ctrl-C. With --all: 0, or 2 and 130.
    """
    with errors_told(debug):
        jobs = _jobs(target, settings or [], everything)
        with _quiet_mindspore(debug):
            found = _identify(jobs)
        if json_file is not None:
            _write(json_file, found)
    if everything or len(found) > 1:
        _show_all(found, markdown)
        return
    _show(found[0], markdown)
    if found[0].status == "refused":
        raise typer.Exit(NOT_AVAILABLE)
    if found[0].status != "found":
        raise typer.Exit(NOT_HELD)


def _jobs(target, settings, everything):
    if everything == (target is not None):
        raise UserError("give one optimizer, as in: ms-adam identify mindspore.nn.Adam; or --all")
    if everything:
        if settings:
            raise UserError("--set is for one optimizer; it can not be given with --all")
        from ms_adam.lab.studies.identify.catalogue import ADAMS

        return list(ADAMS)
    return [(target, dict(_setting(text) for text in settings))]


def _setting(text):
    """The name and the value of "name=value"."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"--set takes NAME=VALUE, as in --set amsgrad=true, but got '{text}'")
    try:
        value = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is no YAML: {error}") from error
    return name, _plain(value)


def _plain(value):
    """YAML takes 1e-3 for a word, and has no tuples, which betas are."""
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


@contextlib.contextmanager
def _quiet_mindspore(debug):
    """Keeps MindSpore from logging the errors that are asked for here, and from leaving files.

    Both are read when MindSpore is imported.
    """
    with tempfile.TemporaryDirectory(prefix="ms-adam-") as folder:
        os.environ.setdefault("MS_OM_PATH", folder)
        if not debug:
            os.environ.setdefault("GLOG_v", "4")
        yield


def _identify(jobs):
    from ms_adam.lab.studies.identify import Identification
    from ms_adam.lab.studies.identify import identify as identify_one

    console, found = Console(stderr=True), []
    with console.status("") as status:
        for i, (path, options) in enumerate(jobs, 1):
            words = f"({i} of {len(jobs)}) {path}: " if len(jobs) > 1 else f"{path}: "
            status.update(words + "import")
            try:
                found.append(
                    identify_one(path, options, lambda doing: status.update(words + doing))
                )
            except UserError as error:
                if len(jobs) == 1:
                    raise
                # one that this MindSpore lacks does not keep the others from being shown
                found.append(Identification(path, options, "refused", str(error).splitlines()[0]))
    return found


def _write(path, found):
    from ms_adam.lab.run.environment import environment

    device = None
    if "mindspore" in sys.modules:
        device = sys.modules["mindspore"].get_context("device_target")
    content = {
        "schema": 1,
        "environment": environment(device),
        "results": [identification.as_dict() for identification in found],
    }
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def _show_all(found, markdown):
    from ms_adam.lab.studies.identify import tables

    rows = [tables.summary_row(identification) for identification in found]
    if markdown:
        print(tables.markdown(tables.SUMMARY, rows))
        return
    console = Console()
    left_out = _LEFT_OUT if console.width >= 116 else _LEFT_OUT_IF_NARROW
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown = [i for i, head in enumerate(tables.SUMMARY) if head not in left_out]
    for i in shown:  # the formula alone is broken into lines
        table.add_column(tables.SUMMARY[i], overflow="fold", no_wrap=tables.SUMMARY[i] != "formula")
    above = None
    for identification, row in zip(found, rows):
        module = re.split(r"[.:]\w+$", identification.target)[0]
        if module != above:
            table.add_row(Text(module, style="bold"))
            above = module
        cells = [row[0][len(module) + 1 :], *row[1:]]
        table.add_row(*(Text(cells[i]) for i in shown), style=_COLOURS.get(identification.status))
    console.print(table)
    print(f"Not shown for want of width, but with --markdown: {', '.join(left_out)}.")


_LEFT_OUT = ("beta^t", "float16 moments", "next best")
_LEFT_OUT_IF_NARROW = ("Nesterov", "AMSGrad", "row-sparse", *_LEFT_OUT)

_COLOURS = {
    "ambiguous": "yellow",
    "no known formula": "red",
    "option ignored": "yellow",
    "refused": "dim",
}


def _show(identification, markdown):
    from ms_adam.lab.studies.identify import tables

    rows = list(tables.detail_rows(identification))
    if markdown:
        print(tables.markdown(tables.SUMMARY, [tables.summary_row(identification)]))
        return
    console = Console()
    ambiguous = "ambiguous: " if identification.status == "ambiguous" else ""
    lines = [
        Text(
            ambiguous + identification.formula,
            style=f"bold {_COLOURS.get(identification.status, '')}",
        )
    ]
    if identification.residual is not None:
        lines += [
            Text(
                f"relative error {tables.number(identification.residual)}, "
                f"{_beside_rounding(identification.excess)}"
            ),
            Text(
                f"next best: {identification.next_best}, "
                f"{tables.number(identification.next_residual)}"
            ),
            Text(
                "taken to have "
                + ", ".join(f"{name}={value:g}" for name, value in identification.numbers.items())
            ),
        ]
        if identification.assumed:
            lines.append(
                Text(
                    f"assumed, as nothing tells: {', '.join(identification.assumed)}",
                    style="yellow",
                )
            )
    console.print(
        Panel(
            Text("\n").join(lines),
            title=Text(tables.title(identification)),
            title_align="left",
            expand=False,
        )
    )
    if rows:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for head in tables.DETAILS:
            table.add_column(head, overflow="fold", no_wrap=head == "residual")
        for finding, row in zip(identification.findings, rows):
            table.add_row(*(Text(cell) for cell in row), style=_COLOURS.get(finding.status))
        console.print(table)


def _beside_rounding(excess):
    if excess <= 1.0:
        return f"{100 * excess:.0f}% of what rounding explains"
    return f"{excess:.3g} times what rounding explains"
