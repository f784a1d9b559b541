"""``ms-adam bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ms_adam.lab.cli.common import DEBUG, errors_told, json_copy, table, write_copy
from ms_adam.lab.errors import UserError


def bench(
    out: Path = typer.Option(
        Path("runs/bench"), metavar="DIR", help="Where bench.json and the plots go."
    ),
    case: list[str] = typer.Option(
        [],
        help="A case, such as '400 x 5,000', 'COUNTxSIZE' or 'ResNet-50'; may be "
        "given again. Without it: all, and the curves.",
    ),
    contender: list[str] = typer.Option(
        [], help="One that takes part, such as 'nn.Adam'; may be given again."
    ),
    rounds: int = typer.Option(6, min=1, help="Turns of each contender in a pass."),
    passes: int = typer.Option(2, min=1, help="Passes over all cases, every other one in reverse."),
    eager: bool = typer.Option(
        False,
        "--eager",
        help="Time calls from Python, in PyNative and in graph mode, in place of compiled steps.",
    ),
    tail: bool = typer.Option(
        False,
        "--tail",
        help="Time the whole tail of a training step: take out a dynamic loss scale, skip if a "
        "gradient is not finite, clip, update and average the weights (EMA); in one launch, "
        "against MindSpore's operators around nn.Adam, and torch's.",
    ),
    narrow: bool = typer.Option(
        False,
        "--narrow",
        help="Time narrow state: moments in bfloat16 and int8, and split master weights, compiled "
        "and called, against float32; beside the 8 bits of bitsandbytes and torchao, if installed.",
    ),
    curves: bool = typer.Option(
        True, help="Also the cost against the number and size of parameters."
    ),
    everything: bool = typer.Option(
        False, "--all", help="Also contenders that compile for minutes."
    ),
    markdown: bool = typer.Option(
        False, "--markdown", help="Print the table of ratios for docs/results.md."
    ),
    json_file: Optional[Path] = json_copy("bench.json"),
    debug: bool = DEBUG,
) -> None:
    """Time whole compiled steps against nn.Adam, torch and the memory limit.

    Each contender has a process of its own; all of a case take turns, so that a busy machine slows
    them alike. Compare ratios, which come first; a time alone says little. "A to B" is A's time
    over B's: below 1 A is faster. About ten minutes on two cores; --tail takes four, --narrow five.

    Example: ms-adam bench --case '400 x 5,000' --case 2000x200; ms-adam bench --tail

    Exit status: 0, 2 after an error, 130 after Ctrl-C.
    """
    from ms_adam.lab.bench import cases, contenders, runner
    from ms_adam.lab.report.studies.bench import write_plots
    from ms_adam.lab.run.results import write_json

    status = Console(stderr=True)
    with errors_told(debug):
        usual_cases, usual = cases.CASES.values(), contenders.COMPILED
        if eager + tail + narrow > 1:
            raise UserError(
                "--eager, --tail and --narrow time different contenders: give one of them"
            )
        if eager:
            usual_cases, usual, curves = cases.EAGER, contenders.EAGER, False
        elif tail:
            usual_cases, usual, curves = cases.TAIL, contenders.TAILS, False
        elif narrow:
            usual_cases, usual, curves = cases.NARROW, contenders.NARROWS, False
        chosen = [cases.find(name) for name in case] or list(usual_cases)
        names = contenders.check_names(contender) or list(usual)
        work, reasons = [], []
        for one in chosen:
            taking_part, left_out = contenders.line_up(one, names, everything)
            work.append((one, taking_part))
            reasons += left_out
        drawn = [name for name in contenders.DRAWN if name in names] if curves and not case else []
        if drawn:
            drawn = contenders.line_up(cases.BY_NUMBER[0], drawn)[0]
            work += [(one, drawn) for one in dict.fromkeys((*cases.BY_NUMBER, *cases.BY_SIZE))]
        for reason in dict.fromkeys(reasons):
            status.print(f"left out: {reason}", highlight=False)
        out.mkdir(parents=True, exist_ok=True)
        remaining = (TextColumn("left:"), TimeRemainingColumn())
        shown = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), *remaining)
        with Progress(*shown, console=status) as bar:
            task = bar.add_task("bench")

            def progress(what: str, done: float, total: float) -> None:
                bar.update(task, description=what, completed=done, total=total)

            content = runner.bench(work, rounds, passes, progress)
        for reason in content["left_out"]:
            status.print(f"left out: {reason}", highlight=False)
        content["left_out"] = [*reasons, *content["left_out"]]
        write_json(out / "bench.json", content)
        write_copy(json_file, content)
        plots = write_plots(content["results"], out) if drawn else []
    _show(content["results"], chosen, markdown)
    print("Written:", *(str(path) for path in (out / "bench.json", *plots)))


def _show(results: list[dict], chosen: list, markdown: bool) -> None:
    from ms_adam.lab.bench import tables
    from ms_adam.lab.run.results import markdown as markdown_table

    console = Console(width=max(Console().width, 100))
    names = {one.name for one in chosen}
    header, rows = tables.ratio_rows([row for row in results if row["case"] in names])
    if markdown:
        print(markdown_table(["", *header], rows))
    else:
        console.print(table(["ratio", *header], rows))
    for one in chosen:
        title = f"{one.name}: {len(one.shapes):,} parameters, {one.elements:,} elements"
        made = table(tables.COLUMNS, tables.case_rows(results, one.name), title=title)
        for column in made.columns[1:]:
            column.no_wrap, column.justify = True, "right"
        console.print(made)
    console.print(tables.LEGEND, highlight=False)
