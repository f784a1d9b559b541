"""``ms-adam identify``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any, Optional

import typer
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from ms_adam.lab.cli.common import DEBUG, NOT_AVAILABLE, NOT_HELD, errors_told, table, write_copy
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
    ecosystem: bool = typer.Option(
        False,
        "--ecosystem",
        help="Print the page docs/conformance.md: every Adam of MindSpore and its model libraries.",
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
        jobs = _jobs(target, settings or [], everything, ecosystem)
        with _quiet_mindspore(debug):
            found = _identify(jobs)
        if json_file is not None:
            _write(json_file, found)
    if ecosystem:
        from ms_adam.lab.studies.identify.conformance import page

        print(page(found))
    elif everything or markdown:
        _show_all(found, markdown)
    else:
        _show(found[0])
    if target is not None and found[0].status != "found":
        raise typer.Exit(NOT_AVAILABLE if found[0].status == "refused" else NOT_HELD)


def _jobs(target: Optional[str], settings: list[str], everything: bool, ecosystem: bool) -> list:
    if everything + ecosystem + (target is not None) != 1:
        raise UserError(
            "give one optimizer, as in: ms-adam identify mindspore.nn.Adam; or --all or --ecosystem"
        )
    if everything or ecosystem:
        if settings:
            raise UserError("--set is for one optimizer; it cannot be given with --all")
        from ms_adam.lab.studies.identify.catalogue import ADAMS, ECOSYSTEM

        return list(ADAMS if everything else ECOSYSTEM)
    return [(target, dict(_setting(text) for text in settings))]


def _setting(text: str) -> tuple[str, Any]:
    """Parses "name=value"."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UserError(f"--set takes NAME=VALUE, as in --set amsgrad=true, but got '{text}'")
    try:
        value = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is no YAML: {error}") from error
    return name, _plain(value)


def _plain(value: Any) -> Any:
    """Converts a value of YAML, which takes 1e-3 for a word, and has no tuples, which betas are."""
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


@contextlib.contextmanager
def _quiet_mindspore(debug: bool) -> Iterator[None]:
    """Keeps MindSpore from logging errors that are provoked here, and from leaving files.

    MindSpore reads both variables when it is imported.
    """
    with tempfile.TemporaryDirectory(prefix="ms-adam-") as folder:
        os.environ.setdefault("MS_OM_PATH", folder)
        if not debug:
            os.environ.setdefault("GLOG_v", "4")
        yield


def _identify(jobs: list) -> list:
    from ms_adam.lab.studies.identify import Identification
    from ms_adam.lab.studies.identify import identify as identify_one

    found = []
    # Some libraries print when an optimizer is made; what is printed here is a table or a page.
    with contextlib.redirect_stdout(sys.stderr), Console(stderr=True).status("") as status:

        def progress(doing: str) -> None:
            place = f"({len(found) + 1} of {len(jobs)}) " if len(jobs) > 1 else ""
            status.update(f"{place}{path}: {doing}")

        for path, options in jobs:
            progress("import")
            try:
                found.append(identify_one(path, options, progress))
            except UserError as error:
                if len(jobs) == 1:
                    raise
                # One that this MindSpore lacks does not keep the others from being shown.
                found.append(Identification(path, options, "refused", str(error).splitlines()[0]))
    return found


def _write(path: Path, found: list) -> None:
    from ms_adam.lab.run.results import results

    mindspore = sys.modules.get("mindspore")
    targets = [mindspore.get_context("device_target")] if mindspore else []
    # What an option holds may be anything: default=str.
    entries = [json.loads(json.dumps(one.as_dict(), default=str)) for one in found]
    write_copy(path, results(entries, targets))


_LEFT_OUT = ("beta^t", "float16 moments", "next best")
_LEFT_OUT_IF_NARROW = ("Nesterov", "AMSGrad", "row-sparse", *_LEFT_OUT)
_COLOURS = {
    "ambiguous": "yellow",
    "no known formula": "red",
    "option ignored": "yellow",
    "refused": "dim",
}


def _show_all(found: list, markdown: bool) -> None:
    from ms_adam.lab.run.results import markdown as markdown_table
    from ms_adam.lab.studies.identify import tables

    rows = [tables.summary_row(identification) for identification in found]
    if markdown:
        print(markdown_table(tables.SUMMARY, rows))
        return
    console = Console()
    left_out = _LEFT_OUT if console.width >= 116 else _LEFT_OUT_IF_NARROW
    shown = [head not in left_out for head in tables.SUMMARY]
    made = table(compress(tables.SUMMARY, shown), [], **_LAYOUT, padding=(0, 1, 0, 0))
    for column in made.columns:  # only the formula is broken into lines
        column.no_wrap = column.header != "formula"
    above = None
    for identification, (title, *words) in zip(found, rows):
        module = re.split(r"[.:]\w+$", identification.target)[0]
        if module != above:
            made.add_row(Text(module, style="bold"))
            above = module
        cells = compress([title[len(module) + 1 :], *words], shown)
        made.add_row(*map(Text, cells), style=_COLOURS.get(identification.status))
    console.print(made)
    print(f"Not shown for want of width, but with --markdown: {', '.join(left_out)}.")


_LAYOUT = {"box": box.SIMPLE_HEAD, "pad_edge": False}


def _show(identification: Any) -> None:
    from ms_adam.lab.studies.identify import tables

    console = Console()
    title = Text(tables.title(identification))
    console.print(Panel(_words(identification), title=title, title_align="left", expand=False))
    rows = list(tables.detail_rows(identification))
    if rows:
        made = table(tables.DETAILS, [], **_LAYOUT)
        for column in made.columns:
            column.no_wrap = column.header == "residual"
        for finding, row in zip(identification.findings, rows):
            made.add_row(*map(Text, row), style=_COLOURS.get(finding.status))
        console.print(made)


def _words(identification: Any) -> Text:
    """Returns the lines on one optimizer above the table of its findings."""
    from ms_adam.lab.studies.identify.tables import number

    ambiguous = "ambiguous: " if identification.status == "ambiguous" else ""
    style = f"bold {_COLOURS.get(identification.status, '')}"
    lines = [Text(ambiguous + identification.formula, style=style)]
    if identification.residual is not None:
        share = identification.excess
        rounding = f"{share:.3g} times" if share > 1.0 else f"{100 * share:.0f}% of"
        numbers = ", ".join(f"{name}={value:g}" for name, value in identification.numbers.items())
        residual, next_best = number(identification.residual), identification.next_best
        lines += [
            Text(f"relative error {residual}, {rounding} what rounding explains"),
            Text(f"next best: {next_best}, {number(identification.next_residual)}"),
            Text(f"taken to have {numbers}"),
        ]
        if identification.assumed:
            assumed = f"assumed, as nothing tells: {', '.join(identification.assumed)}"
            lines.append(Text(assumed, style="yellow"))
    return Text("\n").join(lines)
