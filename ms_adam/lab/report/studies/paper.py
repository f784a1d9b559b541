"""The report on the paper's figures, from ``results.json``: HTML, Markdown, CSV and PNGs.

    python -m ms_adam.lab.report.studies.paper runs/paper docs/paper

writes that of a finished run into a folder that is to be published, without what is too large.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Optional

import yaml
from markdown_it import MarkdownIt
from markupsafe import Markup

from ms_adam.lab.report.html import data_uri, link_pages, read_results, template
from ms_adam.lab.report.studies import paper_plots, paper_words
from ms_adam.lab.report.studies.paper_words import duration, spread
from ms_adam.lab.report.studies.paper_words import number as four_digits
from ms_adam.lab.report.tables import Column, number, rendered, table

# Wide enough for a page of 1,000 px, and for a code-hosting page.
_PAGE_PIXELS, _FILE_PIXELS = 1350, 900
_RUN_COLUMNS = [
    *("figure", "variant", "optimizer", "purpose", "learning_rate", "seed"),
    *("epochs", "steps", "final_cost", "seconds", "hash"),
]
_VERDICT_COLUMNS = [
    *("figure", "scale", "claim", "verdict", "seeds", "interval", "needed"),
    *("best_rates_at_edge", "test", "measured"),
]


def write_report(run: Path, to: Optional[Path] = None, *, page: bool = True) -> Path:
    """Writes the report of finished figures.

    Args:
        run: A folder with the ``results.json`` of the study of the paper.
        to: Where to write; `run` if not given.
        page: Whether to write ``index.html``. In a folder that is published, ``report.md`` says the
            same, beside the same pictures.

    Returns:
        The path of ``index.html``, one file that needs no other and no network, or of ``report.md``
        without it. Beside them: ``figures/``, which ``report.md`` shows, ``verdicts.csv``,
        ``runs.csv`` and ``curves.csv``, which is compressed without the page.

    Example:
        >>> write_report(Path("runs/paper"), page=False).name  # doctest: +SKIP
        'report.md'
    """
    to = to or run
    (to / "figures").mkdir(parents=True, exist_ok=True)
    content = read_results(run)
    figures = [_figure(entry, to / "figures") for entry in content["results"]]
    values = {
        **content,
        "figures": figures,
        "verdicts": _verdict_table(figures),
        "cuts": _cut_table(figures),
        "words": paper_words,
    }
    curves = _csv(("hash", "costs"), _curves(figures))
    files: dict[str, Any] = {
        "verdicts.csv": _csv(_VERDICT_COLUMNS, _verdicts(figures)),
        "runs.csv": _csv(_RUN_COLUMNS, _runs(figures)),
    }
    report = template("paper.md.j2")
    if page:
        files["curves.csv"] = curves
        body = _html(report.render(values, files=()), figures)
        files["index.html"] = template("paper.html.j2").render(body=body)
    else:  # compressed for a repository, and the same bytes for the same runs
        files["curves.csv.gz"] = gzip.compress(curves, mtime=0)
    for name in {"index.html", "curves.csv", "curves.csv.gz"} - set(files):
        (to / name).unlink(missing_ok=True)  # that of an earlier run
    files["report.md"] = report.render(values, files=sorted(files))
    for name, content in files.items():
        (to / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if page:
        link_pages(to)
    return to / ("index.html" if page else "report.md")


def _html(report: str, figures: Sequence[dict]) -> Markup:
    """Renders the Markdown report as HTML, with its pictures inside and its verdicts in colour."""
    page = MarkdownIt("commonmark", {"xhtmlOut": False}).enable("table").render(report)
    page = page.replace("<table>", '<div class="wide"><table>')
    page = page.replace("</table>", "</table></div>")
    for status in paper_words.STATUSES:
        look = f'class="status {status.replace(" ", "-")}"'
        page = page.replace(f"<strong>{status}</strong>", f"<strong {look}>{status}</strong>")
        page = page.replace(f"<h3>{status.capitalize()}: ", f"<h3 {look}>{status.capitalize()}: ")
    for figure in figures:
        name, title = figure["figure"], escape(figure["title"], quote=False)
        page = page.replace(f"<td>{title}</td>", f'<td><a href="#{name}">{title}</a></td>')
        page = page.replace(f"<h2>{title}</h2>", f'<h2 id="{name}">{title}</h2>')
        for plot in figure["plots"]:
            inside = f'src="{data_uri(plot["png"])}"'
            page = page.replace(f'src="figures/{plot["file"]}"', inside)
    return Markup(page.replace("<p><img", '<p class="wide"><img'))


def _figure(entry: dict, folder: Path) -> dict[str, Any]:
    """Returns an entry of ``results.json`` with its words and tables, and draws its plots."""
    pictures = []
    for name, (drawn, caption) in paper_plots.draw(entry).items():
        file = folder / f"{entry['figure']}_{name}.png"
        file.write_bytes(paper_plots.palette_png(drawn, _FILE_PIXELS))
        page_png = paper_plots.palette_png(drawn, _PAGE_PIXELS)
        pictures.append({"file": file.name, "words": caption, "png": page_png})
    config = entry["config"]
    claims = zip(entry["verdicts"], config["claims"])
    return {
        **entry,
        "plots": pictures,
        "verdicts": [{**told, **paper_words.at_edge(entry, claim)} for told, claim in claims],
        "number_table": _number_table(entry),
        "grid_tables": _grid_tables(entry),
        "run_table": _run_table(entry),
        "yaml": yaml.safe_dump(config, sort_keys=False, width=88, allow_unicode=True),
    }


def _verdict_table(figures: Sequence[dict]) -> str:
    def status(verdict: dict) -> str:
        at_edge, takes = verdict["at_edge"], paper_words.takes(verdict)
        note = f"\nBest learning rate at the edge of its grid: {at_edge}" if at_edge else ""
        return f"**{verdict['status']}**{takes and f'; {takes}'}{note}"

    columns = (
        Column("Figure", "figure"),
        Column("Claim", "claim"),
        Column("Verdict", status),
        number("Seeds", "seeds"),
        Column("Ratio, bounds", "interval"),
    )
    verdicts = ({**v, "figure": figure["title"]} for figure in figures for v in figure["verdicts"])
    return rendered(table(columns, verdicts))


def _cut_table(figures: Sequence[dict]) -> str:
    def size(what: str) -> Column:
        def words(cut: dict) -> str:
            return f"**{cut['here']}** of {cut['full']}" if cut["cut"] else cut["here"]

        return Column(what.capitalize(), lambda figure: paper_words.cuts(figure).get(what), words)

    sizes = map(size, ("examples", "widths", "epochs", "first epochs", "learning rates"))
    columns = (Column("Figure", "title"), *sizes, Column("Training", "seconds", duration))
    return rendered(table(columns, figures))


def _who(entry: dict) -> list[Column]:
    """Returns the columns that name an optimizer, and its variant if there are several."""
    columns = [Column("Variant", "variant"), Column("Optimizer", "optimizer", None, "name")]
    return columns[len(entry["config"]["variants"]) == 1 :]


def _number_table(entry: dict) -> str:
    def best(line: dict) -> str:
        edge = paper_words.edge(line)
        return f"{line['best']:g}" + (f", **{edge}**" if edge else "")

    def steps(line: dict) -> str:
        found = [float(epochs) * entry["steps_per_epoch"] for epochs in line["epochs_to_target"]]
        return "never" if math.inf in found else f"{statistics.fmean(found):,.0f}"

    def seconds(line: dict) -> float:
        return statistics.fmean(run["seconds"] for run in paper_plots.best_runs(entry, line))

    columns = (
        *_who(entry),
        number("Seeds", "seeds"),
        Column("Best learning rate", best),
        number("Cost at the end", "final", spread),
        number("Epochs to the target", "epochs_to_target", lambda found: spread(found, "never")),
        number("Steps to it", steps),
        number("Target", "target", four_digits),
        number("Seconds a run", seconds, "{:.3g}".format),
    )
    return rendered(table(columns, entry["lines"]))


def _grid_tables(entry: dict) -> list[tuple[int, str]]:
    """Returns of each epoch that claims look at, the mean cost at every learning rate tried."""
    lines, early = entry["lines"], entry["scale"]["early"]

    def cost(name: str, place: int, line: dict) -> str:
        if place >= len(line["tried"]):
            return ""
        tried = line["tried"][place]
        bold = "**" if name == "mean" and tried["learning_rate"] == line["best"] else ""
        return f"{tried['learning_rate']:g}: {bold}{four_digits(tried[name])}{bold}"

    def of_epoch(name: str, *more: Column) -> str:
        most = max(len(line["tried"]) for line in lines)
        costs = [Column(f"Rate {n + 1}", functools.partial(cost, name, n)) for n in range(most)]
        return rendered(table([*_who(entry), *costs, *more], lines))

    edge = Column("At the edge", lambda line: paper_words.edge(line) or "no")
    of_early = [] if early is None else [(early, of_epoch("early"))]
    return [*of_early, (entry["scale"]["epochs"], of_epoch("mean", edge))]


def _run_table(entry: dict) -> str:
    def end(run: dict) -> str:
        return "diverged" if run["diverged"] else f"{run['costs'][-1]:.4g}"

    columns = (
        *_who(entry),
        Column("For", "purpose"),
        number("Learning rate", "learning_rate", "{:g}".format),
        number("Seed", "seed"),
        number("Cost at the end", end),
        number("Steps", "steps"),
        number("Seconds", "seconds", "{:.1f}".format),
        Column("Hash", "hash", "`{}`".format),
    )
    return rendered(table(columns, entry["runs"]))


def _csv(columns: Sequence[str], rows: Iterable[dict]) -> bytes:
    """Writes these columns of rows."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _verdicts(figures: Sequence[dict]) -> Iterable[dict]:
    for figure in figures:
        for verdict in figure["verdicts"]:
            yield {
                **verdict,
                "figure": figure["figure"],
                "scale": figure["scale"]["name"],
                "verdict": verdict["status"],
                "best_rates_at_edge": "; ".join(verdict["edges"]),
                "measured": "; ".join(verdict["measured"]),
            }


def _runs(figures: Sequence[dict]) -> Iterable[dict]:
    for figure in figures:
        more = {"figure": figure["figure"], "epochs": figure["scale"]["epochs"]}
        for run in figure["runs"]:
            yield {**run, **more, "final_cost": run["costs"][-1]}


def _curves(figures: Sequence[dict]) -> Iterable[dict]:
    """Yields a line for every run, named by its hash: the costs before training and of each epoch.

    An epoch a line takes twice the space, compressed too.
    """
    # A run that two figures share, or a trial that is judged, is there once.
    costs = {run["hash"]: run["costs"] for figure in figures for run in figure["runs"]}
    for name, of_run in costs.items():
        words = (cost if cost == "inf" else f"{cost:.6g}" for cost in of_run)
        yield {"hash": name, "costs": " ".join(words)}


def main() -> None:
    """Writes the report of a run into another folder; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m ms_adam.lab.report.studies.paper",
        description="Write the report of a finished run of configs/paper/ into a folder that is "
        "to be published: Markdown, pictures and CSV, without the page of HTML.",
    )
    parser.add_argument("run", type=Path, help="the folder that ms-adam reproduce wrote to")
    parser.add_argument("to", type=Path, help="such as docs/paper")
    run, to = vars(parser.parse_args()).values()
    if not (run / "results.json").is_file():
        parser.error(
            f"{run}: has no results.json; ms-adam reproduce writes it when all runs are done"
        )
    print(f"The report: {write_report(run, to, page=False)}")


if __name__ == "__main__":
    main()
