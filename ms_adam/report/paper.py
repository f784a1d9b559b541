"""Writes the report on the paper's figures from ``results.json``: HTML, Markdown, CSV and PNGs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ms_adam.report import paper_plots
from ms_adam.report.html import data_uri, template

_STATUSES = ("reproduced", "not reproduced", "inconclusive")
_RUN_COLUMNS = ("figure", "variant", "optimizer", "purpose", "learning_rate", "seed", "epochs",
                "steps", "final_cost", "seconds", "hash")


def write_report(out: Path) -> Path:
    """Makes the report of finished figures.

    Args:
        out: A folder with the ``results.json`` of `ms_adam.experiments.paper.runner`.

    Returns:
        The path of ``index.html``, one file that needs no other and no network. Beside it:
        ``report.md`` with its images in ``figures/``, ``runs.csv`` and ``curves.csv``.
    """
    content = json.loads((out / "results.json").read_text(encoding="utf-8"))
    (out / "figures").mkdir(exist_ok=True)
    figures = []
    for entry in content["results"]:
        drawn = paper_plots.draw(entry)
        for name, (image, _) in drawn.items():
            (out / "figures" / f"{entry['figure']}_{name}.png").write_bytes(image)
        figures.append({
            **entry,
            "plots": [{"name": name, "uri": data_uri(image), "words": words}
                      for name, (image, words) in drawn.items()],
            "table": [_row(entry, line) for line in entry["lines"]],
            "yaml": yaml.safe_dump(entry["config"], sort_keys=False, width=88, allow_unicode=True),
            "size": _size(entry),
        })
    counts = _counts(figures)
    page = template("paper.html.j2").render(
        environment=content["environment"], scale=content["scale"], figures=figures, counts=counts,
        minutes=sum(figure["seconds"] for figure in figures) / 60)
    (out / "index.html").write_text(page, encoding="utf-8")
    (out / "report.md").write_text(_markdown(content, figures, counts), encoding="utf-8")
    _write_runs(out / "runs.csv", content["results"])
    _write_curves(out / "curves.csv", content["results"])
    return out / "index.html"


def _counts(figures: Sequence[dict]) -> str:
    found = [verdict["status"] for figure in figures for verdict in figure["verdicts"]]
    return ", ".join(f"{found.count(status)} {status}" for status in _STATUSES)


def _size(entry: dict) -> str:
    """What was run, in words, with what the scale has cut."""
    scale, full = entry["scale"], entry["config"]["scales"]["full"]
    words = [f"{entry['examples']:,} examples ({entry['source']}), {scale['epochs']} epochs of "
             f"{entry['steps_per_epoch']} steps in mini-batches of "
             f"{entry['config']['batch_size']}"]
    cuts = []
    if scale["epochs"] != full["epochs"]:
        cuts.append(f"{full['epochs']} epochs")
    if entry["examples"] < full["examples"]:
        cuts.append(f"up to {full['examples']:,} examples")
    if scale["width"] != full["width"]:
        words.append(f"layers {scale['width']:g} times as wide as the paper's")
        cuts.append("the paper's widths")
    if scale["trials"] != full["trials"]:
        cuts.append(f"{full['trials']} learning rates")
    text = "; ".join(words) + f"; {scale['trials']} learning rates for each optimizer."
    return text + (f" The full scale has {', '.join(cuts)}." if cuts else "")


def _row(entry: dict, line: dict) -> dict[str, Any]:
    purpose = "grid" if entry["config"]["design"] == "grid" else "judged"
    seconds = [run["seconds"] for run in entry["runs"]
               if (run["variant"], run["optimizer"], run["purpose"], run["learning_rate"])
               == (line["variant"], line["optimizer"], purpose, line["best"])]
    return {
        **line,
        "final_words": spread(line["final"]),
        "target_words": number(line["target"]),
        "reached_words": spread(line["epochs_to_target"], "never"),
        "seconds_words": f"{sum(seconds) / len(seconds):.3g} ({min(seconds):.3g} to "
                         f"{max(seconds):.3g})",
        "tried_words": "; ".join(f"{tried['learning_rate']:g}: {number(tried['mean'])}"
                                 for tried in line["tried"]),
    }


def number(value: Any, infinite: str = "diverged") -> str:
    """Four digits; "inf" in words."""
    value = float(value)
    return infinite if value == float("inf") else f"{value:.4g}"


def spread(values: Sequence[Any], infinite: str = "diverged") -> str:
    """The mean over seeds, and from the least to the most."""
    numbers = [float(value) for value in values]
    if float("inf") in numbers:
        return ", ".join(number(value, infinite) for value in numbers)
    mean = sum(numbers) / len(numbers)
    return f"{number(mean)} ({number(min(numbers))} to {number(max(numbers))})"


def _markdown(content: dict, figures: Sequence[dict], counts: str) -> str:
    environment = content["environment"]
    lines = ["# The figures of Kingma & Ba 2015, reproduced", "",
             f"Scale: {content['scale']}. Verdicts: {counts}. ms_adam {environment['ms_adam']}, "
             f"commit {environment['commit']}, MindSpore {environment['mindspore']}, "
             f"{environment['cpu']}, {environment['cores']} cores, {environment['date']}.", "",
             *_table(("Figure", "Claim", "Verdict"),
                     [(figure["title"], verdict["claim"], f"**{verdict['status']}**")
                      for figure in figures for verdict in figure["verdicts"]])]
    for figure in figures:
        lines += ["", f"## {figure['title']}", "", f"The paper: {figure['config']['paper']}", "",
                  f"Here: {figure['size']}", "",
                  *[f"- {difference}" for difference in figure["config"]["differences"]], ""]
        for verdict in figure["verdicts"]:
            lines += [f"**{verdict['status']}**: {verdict['claim']}", "", verdict["test"], "",
                      *[f"- {measured}" for measured in verdict["measured"]], ""]
        for plot in figure["plots"]:
            lines += [f"![{plot['words']}](figures/{figure['figure']}_{plot['name']}.png)", ""]
        lines += _table(
            ("Variant", "Optimizer", "Best learning rate", "Cost at the end",
             "Epochs to the target", "Seconds a run"),
            [(row["variant"], row["optimizer"],
              f"{row['best']:g}{' (edge)' if row['at_edge'] else ''}", row["final_words"],
              f"{row['reached_words']} to {row['target_words']}", row["seconds_words"])
             for row in figure["table"]])
        lines += ["", f"Config SHA-256 {figure['config_sha256']}; examples SHA-256 "
                      f"{figure['examples_sha256']}; all runs in runs.csv, their costs in "
                      "curves.csv."]
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads),
            *["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]]


def _write_runs(path: Path, entries: Sequence[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_RUN_COLUMNS)
        for entry in entries:
            for run in entry["runs"]:
                writer.writerow([entry["figure"], run["variant"], run["optimizer"], run["purpose"],
                                 run["learning_rate"], run["seed"], entry["scale"]["epochs"],
                                 run["steps"], run["costs"][-1], run["seconds"], run["hash"]])


def _write_curves(path: Path, entries: Sequence[dict]) -> None:
    """The costs of every run, an epoch a line; a run is named by its hash."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("hash", "epoch", "cost"))
        for entry in entries:
            for run in entry["runs"]:
                for epoch, cost in enumerate(run["costs"]):
                    writer.writerow((run["hash"], epoch,
                                     cost if cost == "inf" else f"{cost:.6g}"))
