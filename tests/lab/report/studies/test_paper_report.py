"""The report on the paper's figures: it says what its own numbers say, and is fit to be published.

What holds for a small report made here must hold for that in docs/paper/ too.
"""

import csv
import gzip
import html
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from lab.studies.paper.paper_figures import SCALE, content, session
from PIL import Image

from ms_adam.lab.report.html import read_results
from ms_adam.lab.report.studies import paper_plots, paper_words
from ms_adam.lab.report.studies.paper import write_report
from ms_adam.lab.run.config import load
from ms_adam.lab.studies.paper.cache import CachedFigure
from ms_adam.lab.studies.paper.claims import judge
from ms_adam.lab.studies.paper.config import PaperFigure
from ms_adam.lab.studies.paper.study import STUDY
from ms_adam.lab.studies.paper.sweep import Outcome, sweep

ROOT = Path(__file__).parents[4]
PUBLISHED = ROOT / "docs" / "paper"
CONFIGS = sorted((ROOT / "configs" / "paper").glob("*.yaml"))


def nothing_is_trained(*_, **__):
    raise AssertionError


def small():
    """Adam's best rate is inside its grid, AdaGrad's is the largest."""
    standard = {**SCALE, "trials": 3}
    full = {**standard, "examples": 5000, "epochs": 9}
    scales = {"quick": SCALE, "standard": standard, "full": full}
    return PaperFigure.model_validate(content(scales=scales))


def finish(figure, out):
    """A run of which all is in the cache, with costs that are known."""
    cached = CachedFigure(figure, "standard", out / "cache")

    def get(spec):
        adam = spec.contender.name == "Adam"
        best = 0.1 if adam else 1.0
        end = (1.0 if adam else 2.0) + abs(np.log10(spec.learning_rate / best)) + spec.seed / 100
        result = Outcome(np.array([9.0, 5.0, (5 + end) / 2, end]), 9, 1.5)
        cached.store(spec, result)
        return result

    cached.lines(get)
    return STUDY.run([figure], session(out, nothing_is_trained, scale="standard"))


def publish(run, to):
    command = [sys.executable, "-m", "ms_adam.lab.report.studies.paper", str(run), str(to)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run, and its report in another folder, with the page."""
    run, to = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("published")
    finish(small(), run)
    ended = publish(run, to)
    assert ended.returncode == 0, ended.stderr
    assert not (to / "index.html").exists()
    write_report(run, to)
    return run, to


def rows(path):
    compressed = path.with_name(f"{path.name}.gz")
    opened, path = (gzip.open, compressed) if compressed.exists() else (open, path)
    with opened(path, "rt", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def anew(folder, figures):
    """The verdicts, judged from the published CSV files alone."""
    costs = {row["hash"]: row["costs"].split() for row in rows(folder / "curves.csv")}
    keys = ("figure", "variant", "optimizer", "learning_rate", "seed")
    runs, judged = {}, defaultdict(lambda: defaultdict(set))
    for row in rows(folder / "runs.csv"):
        runs[tuple(row[key] for key in keys)] = np.array(costs[row["hash"]], float)
        if row["purpose"] != "trial":  # how many seeds each line ran on, without those for tuning
            judged[row["figure"]][row["variant"], row["optimizer"]].add(row["seed"])
    found = []
    for figure, scale in figures:

        def get(spec, name=figure.name):
            of_run = (spec.variant.label, spec.contender.called, spec.learning_rate, spec.seed)
            return Outcome(runs[(name, *map(str, of_run))], 0, 0.0)

        seeds = {line: len(of_line) for line, of_line in judged[figure.name].items()}
        for of in judge(figure, scale, sweep(figure, scale, get, seeds)):
            found.append((figure.name, of.verdict.claim, of.verdict.status, str(of.verdict.seeds)))
    return found


def check(folder, figures):
    """Asserts that verdicts.csv, report.md, index.html and the runs say the same."""
    told = rows(folder / "verdicts.csv")
    keys = ("figure", "claim", "verdict", "seeds")
    assert [tuple(row[key] for key in keys) for row in told] == anew(folder, figures)
    text = (folder / "report.md").read_text(encoding="utf-8")
    pages = [text]
    if (folder / "index.html").exists():
        pages.append(html.unescape((folder / "index.html").read_text(encoding="utf-8")))
    for i, row in enumerate(told):
        heading = f"{row['verdict'].capitalize()}: {row['claim']}"
        assert all(heading in page for page in pages)
        # Two figures may make one claim.
        claims = [other["claim"] for other in told]
        lines = re.findall(rf"^\|.*\| {re.escape(row['claim'])} \|.*", text, re.MULTILINE)
        assert len(lines) == claims.count(row["claim"])
        line = lines[claims[:i].count(row["claim"])]
        assert f"**{row['verdict']}**" in line
        assert bool(row["best_rates_at_edge"]) == ("at the edge of its grid" in line)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert any(link.endswith(".png") for link in links)
    for link in links:
        assert (folder / link).is_file(), link
    for path in folder.iterdir():
        if path.is_file():
            limit = 1_500_000 if path.name == "index.html" else 250_000  # for a repository
            assert path.stat().st_size <= limit, path.name
    for path in (folder / "figures").iterdir():
        assert path.stat().st_size < 80_000, path.name
        with Image.open(path) as image:
            assert image.width <= 900
            assert image.mode == "P"


def test_the_report_says_what_its_numbers_say(made):
    _, to = made
    figure = small()
    check(to, [(figure, figure.scales.standard)])
    (row,) = rows(to / "verdicts.csv")
    # Adam is ahead, but AdaGrad's best rate is the largest that was tried.
    assert row["verdict"] == "inconclusive"
    assert row["best_rates_at_edge"] == "AdaGrad with L2: 1, the largest of 3 tried"
    (entry,) = read_results(made[0])["results"]
    assert [run["hash"] for run in rows(to / "runs.csv")] == [run["hash"] for run in entry["runs"]]
    # Before training, and three epochs.
    assert {len(run["costs"].split()) for run in rows(to / "curves.csv")} == {4}


def test_the_check_notices_another_verdict(made, tmp_path):
    _, to = made
    shutil.copytree(to, tmp_path, dirs_exist_ok=True)
    figure = small()
    for name in ("verdicts.csv", "report.md", "index.html"):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(re.sub("(?i)inconclusive(?=,|:|\\*)", "reproduced", before))
        with pytest.raises(AssertionError):
            check(tmp_path, [(figure, figure.scales.standard)])
        (tmp_path / name).write_text(before)
    check(tmp_path, [(figure, figure.scales.standard)])


def test_the_published_report_says_what_its_numbers_say():
    """It is made by python -m ms_adam.lab.report.studies.paper RUN docs/paper."""
    figures = {figure.name: figure for figure in (load(path, PaperFigure) for path in CONFIGS)}
    told = rows(PUBLISHED / "verdicts.csv")
    names = dict.fromkeys((row["figure"], row["scale"]) for row in told)
    assert {name for name, _ in names} == set(figures)
    scales = [(figures[name], getattr(figures[name].scales, scale)) for name, scale in names]
    check(PUBLISHED, scales)


def test_more_optimizers_than_looks_are_drawn():
    names = [*paper_plots._LOOK, "nn.Adam", "Adam averaged"]
    lines = [{"optimizer": name, "variant": "L2"} for name in names]
    config = {"design": "tuned", "variants": [{"label": "L2"}]}
    curves = paper_plots._curves_of_variants({"config": config, "lines": lines})
    assert [label for label, _, _ in curves["L2"]] == names


def test_markdown_and_page_say_what_is_searched_fixed_and_cut(made):
    run, to = made
    (entry,) = read_results(run)["results"]
    page = html.unescape((to / "index.html").read_text().replace("\u2011", "-"))
    for text in (page, (to / "report.md").read_text()):
        for wanted in (
            *paper_words.SEARCHED,
            *paper_words.JUDGED,
            entry["verdicts"][0]["test"],
            entry["config_sha256"],
            "The standard scale cuts examples to 60 of 5,000, epochs to 3 of 9.",
            "Adam: beta1 0.9, beta2 0.999, eps 1e-08, with bias correction",
            "AdaGrad: eps 1e-10",
            "The learning rate alone, 3 for each optimizer, on seed 0; the best of each then runs "
            "on the judged seeds 1 to 3.",
            "AdaGrad with L2: 1, the largest of 3 tried",
        ):
            assert wanted in text


def test_a_published_report_names_its_page_and_has_none(made, tmp_path):
    run, _ = made
    (tmp_path / "index.html").write_text("that of an earlier run")
    path = write_report(run, tmp_path, page=False)
    assert path.name == "report.md"
    assert not (tmp_path / "index.html").exists()
    text = path.read_text()
    assert "The command above also writes index.html" in text
    assert "](index.html)" not in text


def test_a_folder_without_results_is_named(tmp_path):
    ended = publish(tmp_path, "x")
    assert ended.returncode == 2
    assert "has no results.json" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_differences_name_what_the_standard_scale_cuts(path):
    figure = load(path, PaperFigure)
    standard, full, told = figure.scales.standard, figure.scales.full, " ".join(figure.differences)
    cut = {
        name: (getattr(full, name), getattr(standard, name))
        for name in ("examples", "epochs", "width", "early", "trials")
        if getattr(full, name) != getattr(standard, name)
    }
    if not cut:
        assert "The standard scale cuts nothing." in told
        return
    for _, here in cut.values():
        assert re.search(rf"(?<![\d.,]){here:,g}(?![\d])".replace(".", r"\."), told), here
    whole = ("widths are the paper's", "widths and epochs are the paper's", "widths are not cut")
    if figure.network.kind != "logistic":
        assert any(words in told for words in whole) == ("width" not in cut)


def test_optimizers_searched_alike_have_the_numbers_that_the_differences_name():
    for path in CONFIGS:
        figure, told = load(path, PaperFigure), " ".join(load(path, PaperFigure).differences)
        if figure.scales.full.trials == 1:
            assert "Nothing is searched" in told.replace("\n", " ")
        elif figure.design == "tuned":
            count = len(figure.optimizers[0].learning_rates)
            assert f"Only learning rates are searched, {count} for each optimizer" in told
            for of_it in figure.optimizers:
                for name in ("momentum", "decay", "rho"):
                    if name in of_it.settings:
                        assert f"{name} {of_it.settings[name]:g}" in told
