"""Writes the report on the paper's figures from ``results.json``: HTML, Markdown, CSV and PNGs.

    python -m ms_adam.lab.report.paper runs/paper docs/paper

writes that of a finished run into a folder that is to be published, without what is too large.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

import yaml

from ms_adam.lab.report import paper_plots, paper_words
from ms_adam.lab.report.html import data_uri, template

# Wide enough for a page of 1,000 px, and for a code-hosting page.
_PAGE_PIXELS, _FILE_PIXELS = 1350, 900
_RUN_COLUMNS = (
    "figure",
    "variant",
    "optimizer",
    "purpose",
    "learning_rate",
    "seed",
    "epochs",
    "steps",
    "final_cost",
    "seconds",
    "hash",
)
_VERDICT_COLUMNS = ("figure", "scale", "claim", "verdict", "best_rates_at_edge", "test", "measured")


def write_report(run: Path, to: Optional[Path] = None, *, page: bool = True) -> Path:
    """Makes the report of finished figures.

    Args:
        run: A folder with the ``results.json`` of `ms_adam.lab.studies.paper.runner`.
        to: Where to write; `run` if not given.
        page: Whether to write ``index.html``. Where a folder is kept for good, ``report.md`` says the
            same, beside the same pictures.

    Returns:
        The path of ``report.md``'s neighbour ``index.html``, one file that needs no other and no
        network, or of ``report.md`` without it. Beside them: ``figures/``, which
        ``report.md`` shows, ``verdicts.csv``, ``runs.csv`` and ``curves.csv``.

    Example:
        >>> write_report(Path("runs/paper"), Path("docs/paper"), page=False).name
        'report.md'
    """
    content = json.loads((run / "results.json").read_text(encoding="utf-8"))
    to = to or run
    (to / "figures").mkdir(parents=True, exist_ok=True)
    figures = [_figure(entry, to / "figures") for entry in content["results"]]
    words = {
        "environment": content["environment"],
        "scale": content["scale"],
        "figures": figures,
        "counts": paper_words.counts(figures),
        "words": paper_words,
        "training": paper_words.duration(sum(figure["seconds"] for figure in figures)),
        "runs": sum(len(figure["runs"]) for figure in figures),
        "configs": " ".join(f"configs/paper/{figure['figure']}.yaml" for figure in figures),
    }
    files = {
        "verdicts.csv": _csv(_VERDICT_COLUMNS, _verdicts(figures)),
        "runs.csv": _csv(_RUN_COLUMNS, _runs(figures)),
        "curves.csv": _csv(("hash", "epoch", "cost"), _curves(figures)),
    }
    if page:
        files["index.html"] = template("paper.html.j2").render(words)
    else:
        (to / "index.html").unlink(missing_ok=True)  # that of an earlier run
    files["report.md"] = template("paper.md.j2").render(words, page=page, files=sorted(files))
    for name, text in files.items():
        (to / name).write_bytes(text.encode("utf-8"))
    return to / ("index.html" if page else "report.md")


def _figure(entry: dict, folder: Path) -> dict[str, Any]:
    """An entry of ``results.json`` with its words, its tables and its plots, drawn into `folder`."""
    plots = []
    for name, (drawn, caption) in paper_plots.draw(entry).items():
        file = folder / f"{entry['figure']}_{name}.png"
        file.write_bytes(paper_plots.palette_png(drawn, _FILE_PIXELS))
        plots.append(
            {
                "file": file.name,
                "words": caption,
                "uri": data_uri(paper_plots.palette_png(drawn, _PAGE_PIXELS)),
            }
        )
    return {
        **entry,
        "plots": plots,
        "facts": paper_words.facts(entry),
        "cuts": paper_words.cuts(entry),
        "verdicts": [
            _verdict(entry, verdict, claim)
            for verdict, claim in zip(entry["verdicts"], entry["config"]["claims"])
        ],
        "table": [_row(entry, line) for line in entry["lines"]],
        "grids": _grids(entry),
        "yaml": yaml.safe_dump(entry["config"], sort_keys=False, width=88, allow_unicode=True),
    }


def _verdict(entry: dict, verdict: dict, claim: dict) -> dict[str, Any]:
    lines = paper_words.at_edge(entry, claim)
    return {**verdict, "edges": paper_words.edges(lines), "at_edge": paper_words.short(lines)}


def _row(entry: dict, line: dict) -> dict[str, Any]:
    purpose = "grid" if entry["config"]["design"] == "grid" else "judged"
    seconds = [
        run["seconds"]
        for run in entry["runs"]
        if (run["variant"], run["optimizer"], run["purpose"], run["learning_rate"])
        == (line["variant"], line["optimizer"], purpose, line["best"])
    ]
    steps = [float(epochs) * entry["steps_per_epoch"] for epochs in line["epochs_to_target"]]
    return {
        **line,
        "edge": paper_words.edge(line),
        "final_words": paper_words.spread(line["final"]),
        "target_words": paper_words.number(line["target"]),
        "epochs_words": paper_words.spread(line["epochs_to_target"], "never"),
        "steps_words": "never" if float("inf") in steps else f"{sum(steps) / len(steps):,.0f}",
        "seconds_words": f"{sum(seconds) / len(seconds):.3g}",
    }


def _grids(entry: dict) -> list[dict[str, Any]]:
    """Of each epoch that claims look at, the mean cost at every learning rate tried."""
    found = []
    for name, epoch in (("early", entry["scale"]["early"]), ("mean", entry["scale"]["epochs"])):
        if epoch is not None:
            rows = [
                {
                    "variant": line["variant"],
                    "optimizer": line["optimizer"],
                    "edge": paper_words.edge(line),
                    "cells": [
                        {
                            "rate": f"{tried['learning_rate']:g}",
                            "cost": paper_words.number(tried[name]),
                            "best": name == "mean" and tried["learning_rate"] == line["best"],
                        }
                        for tried in line["tried"]
                    ],
                }
                for line in entry["lines"]
            ]
            found.append({"epoch": epoch, "last": name == "mean", "rows": rows})
    return found


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue()


def _verdicts(figures: Sequence[dict]) -> Iterable[Sequence[Any]]:
    for figure in figures:
        for verdict in figure["verdicts"]:
            yield (
                figure["figure"],
                figure["scale"]["name"],
                verdict["claim"],
                verdict["status"],
                "; ".join(verdict["edges"]),
                verdict["test"],
                "; ".join(verdict["measured"]),
            )


def _runs(figures: Sequence[dict]) -> Iterable[Sequence[Any]]:
    for figure in figures:
        for run in figure["runs"]:
            yield (
                figure["figure"],
                run["variant"],
                run["optimizer"],
                run["purpose"],
                run["learning_rate"],
                run["seed"],
                figure["scale"]["epochs"],
                run["steps"],
                run["costs"][-1],
                run["seconds"],
                run["hash"],
            )


def _curves(figures: Sequence[dict]) -> Iterable[Sequence[Any]]:
    """The costs of every run, an epoch a line; a run is named by its hash."""
    written = set()  # a run that two figures share, or a trial that is judged, is there once
    for figure in figures:
        for run in figure["runs"]:
            if run["hash"] not in written:
                written.add(run["hash"])
                for epoch, cost in enumerate(run["costs"]):
                    yield run["hash"], epoch, cost if cost == "inf" else f"{cost:.6g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m ms_adam.lab.report.paper",
        description="Write the report of a finished run of configs/paper/ into a folder that is "
        "to be published: Markdown, pictures and CSV, without the page of HTML.",
    )
    parser.add_argument("run", type=Path, help="the folder that ms-adam reproduce wrote to")
    parser.add_argument("to", type=Path, help="such as docs/paper")
    given = parser.parse_args()
    if not (given.run / "results.json").is_file():
        parser.error(
            f"{given.run}: has no results.json; ms-adam reproduce writes it when all runs are done"
        )
    print(f"The report: {write_report(given.run, given.to, page=False)}")


if __name__ == "__main__":
    main()
