"""``ms-adam watch``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, Optional

import typer

from ms_adam.lab.cli.common import DEBUG, errors_told, json_copy, write_copy
from ms_adam.lab.errors import UserError


def watch(
    command: list[str] = typer.Argument(
        ..., metavar="-- COMMAND...", help="The training as it is started: python train.py ..."
    ),
    out: Path = typer.Option(
        Path("runs/watch"), "--out", metavar="DIR", help="Where index.html and watch.json go."
    ),
    every: Optional[int] = typer.Option(
        None,
        "--every",
        min=0,
        metavar="N",
        help="Look at every N-th step, whatever it costs; 0: at none. Without it: as often as fits "
        "in a tenth of the time of the run.",
    ),
    replace: Optional[str] = typer.Option(
        None,
        "--replace",
        metavar="FORMULA",
        help="Run it with ms_adam in the place of its optimizers: 'epsilon_hat', what the replaced "
        "class computes, or 'paper', Algorithm 1.",
    ),
    against: Optional[Path] = typer.Option(
        None,
        "--against",
        metavar="DIR",
        help="An earlier watched run: look at the same steps, and tell where the two part.",
    ),
    identified: bool = typer.Option(
        True,
        "--identify/--no-identify",
        help="Afterwards, also ask each class apart from the script, as ms-adam identify does.",
    ),
    cost: bool = typer.Option(
        True, "--cost/--no-cost", help="Afterwards, also time ms_adam on the same shapes."
    ),
    json_file: Optional[Path] = json_copy("watch.json"),
    debug: bool = DEBUG,
) -> None:
    """Audit the optimizers of a training script that you need not change.

    Runs the command; every optimizer that its Python processes make is followed. Its weights and
    moments are read before and after some of its steps, and each of these steps is made again in
    float64: which formula is it, how far from Algorithm 1, in how many elements does epsilon
    decide, do moments underflow, stall or stop being finite, are steps skipped or lost? The script
    computes the same bits as without, prints the same, and ends with the same exit status.

    Gradients are those that an optimizer is called with. A compiled step keeps its own to itself;
    they then follow from the first moment, and the page says so.

    The report is written at the end, after Ctrl-C and after a crash, too.

    Examples:

      ms-adam watch -- python train.py --epochs 1

      ms-adam watch --out runs/ours --replace paper --against runs/watch -- python train.py

    Exit status: that of the command; 2 if it does not start.
    """
    from ms_adam.lab.report.studies.watch import write_page
    from ms_adam.lab.run.results import results, write_json
    from ms_adam.lab.studies.watch import parting, replacing, study, verdict

    with errors_told(debug):
        if replace not in (None, *replacing.FORMULAS):
            words = " or ".join(replacing.FORMULAS)
            raise UserError(f"--replace takes {words}, but got {replace!r}")
        earlier = None if against is None else study.earlier(against, out)
        calls = None if earlier is None else study.calls_looked_at(earlier)
        status = study.run(command, out, every, calls, replace)
        records = study.records(out)
        accounts = [verdict.summed_up(record) for record in records]
        stopped = status > 128  # by a signal, as Ctrl-C: the user does not want to wait
        # The script's own output stays as it is. Ctrl-C ends what follows, and not the report.
        with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(KeyboardInterrupt):
            if identified and not stopped:
                _identify(accounts)
            if cost and not stopped:
                _time(accounts)
        entry = {
            "command": command,
            "status": status,
            "replace": replace,
            "verdict": verdict.overall(accounts),
            "optimizers": accounts,
            "run": study.whole(records, every, calls),
            "parted": None if earlier is None else parting.all_parted(earlier, records),
        }
        content = results([entry], {one["device"] for one in accounts})
        write_json(out / "watch.json", content)
        page = write_page(out)
        write_copy(json_file, content)
    parted = entry["parted"] and entry["parted"]["sentence"]
    for line in (entry["verdict"], parted, verdict.watching(entry["run"]), f"The report: {page}"):
        if line:
            print(f"ms-adam watch: {line}", file=sys.stderr)
    raise typer.Exit(status)


def _identify(accounts: list[dict[str, Any]]) -> None:
    """Adds what `ms-adam identify` finds for a class with the arguments of the script."""
    from ms_adam.lab.cli.identify import _quiet_mindspore
    from ms_adam.lab.studies.identify import identify

    known: dict[str, Any] = {}
    with _quiet_mindspore(False):
        for account in accounts:
            options = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in account["given"].items()
                if isinstance(value, (bool, int, float, list))
            }
            key = f"{account['class']} {options}"
            if account["class"].startswith("__main__.") or not account["formula"]:
                continue  # importing the script would run it
            if key not in known:
                try:
                    known[key] = identify(account["name"], options).as_dict()
                except UserError as error:
                    known[key] = {"formula": f"cannot be asked apart: {error}".splitlines()[0]}
            account["identified"] = known[key]


# Which contenders of `ms-adam bench` are the same, by how the script steps: compiled, or called.
_CONTENDERS = {
    ("mindspore.nn.Adam", "compiled"): ("nn.Adam", "fused"),
    ("mindspore.nn.AdamWeightDecay", "compiled"): ("nn.AdamWeightDecay", "AdamW fused"),
    ("mindspore.nn.Adam", "pynative"): ("nn.Adam called, PyNative", "called, PyNative"),
    ("mindspore.nn.Adam", "graph"): ("nn.Adam called, graph mode", "called, graph mode"),
}
_OURS = {"compiled": "fused", "pynative": "called, PyNative", "graph": "called, graph mode"}


def _time(accounts: list[dict[str, Any]]) -> None:
    """Adds what a step of the class and of ms_adam takes alone, on the same shapes."""
    from ms_adam.lab.bench import cases, contenders, runner

    for account in accounts:
        if not account["formula"]:
            continue
        way = account["mode"] if account["cost"]["called"] else "compiled"
        names = _CONTENDERS.get((account["name"], way), (_OURS[way],))
        shapes = tuple(tuple(row["shape"]) for row in account["parameters"])
        case = cases.Case("these shapes", shapes)
        taking_part, left_out = contenders.line_up(case, names)
        try:
            timed = runner.bench([(case, taking_part)], 2, 1, lambda *_: None)["results"]
        except UserError as error:
            timed, left_out = [], [*left_out, str(error)]
        called = {names[0]: account["name"], names[-1]: "ms_adam"}
        alone = {called[row["contender"]]: row["step_ms"] / 1e3 for row in timed}
        account["cost"]["alone"] = alone
        account["cost"]["left_out"] = left_out
