"""A small figure through the command: runs, what a stop leaves, the report, event files."""

import csv
import html
import json
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from lab.studies.paper.paper_figures import content, outcome

from ms_adam.lab.report.studies.paper import write_report
from ms_adam.lab.studies.paper.cache import Cache, code_digest
from ms_adam.lab.studies.paper.config import PaperFigure
from ms_adam.lab.studies.paper.runner import Interrupted, reproduce
from ms_adam.lab.studies.paper.tensorboard import EventFiles

RUNS = 2 * (2 + 3)


class Told:
    """Counts what it is told; may act as the user's Ctrl-C."""

    def __init__(self, stop_after=None):
        self.stop_after, self.cached, self.done = stop_after, None, []

    def whole(self, seconds, runs, cached, workers):
        assert runs == RUNS
        self.cached = cached

    def run(self, worker, figure, label, done, steps, seconds):
        if done == steps and label not in self.done:
            self.done.append(label)
            if len(self.done) == self.stop_after:
                raise KeyboardInterrupt


def small():
    return PaperFigure.model_validate(content())


def command(config, out, *options):
    return [
        sys.executable,
        "-c",
        "from ms_adam.lab.cli import main; main()",
        "reproduce",
        str(config),
        "--out",
        str(out),
        *options,
    ]


def costs(found):
    return {run["hash"]: run["costs"] for run in found["results"][0]["runs"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run by the command, with a second after it."""
    folder = tmp_path_factory.mktemp("paper")
    config, out = folder / "small.yaml", folder / "out"
    config.write_text(yaml.safe_dump(content()))
    arguments = command(
        config, out, "--scale", "quick", "--tensorboard", "--json", str(folder / "copy.json")
    )
    first = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    return folder, out, first


def test_the_command_ends_well(finished):
    folder, out, first = finished
    assert first.returncode == 0, first.stderr
    assert f"{RUNS} runs, of which 0 are done already" in first.stderr
    assert "reproduced" in first.stdout or "inconclusive" in first.stdout
    found = json.loads((out / "results.json").read_text())
    assert found["schema"] == 1
    assert found == json.loads((folder / "copy.json").read_text())
    (entry,) = found["results"]
    assert len(entry["runs"]) == RUNS
    assert entry["examples"] == 60
    assert str(folder) not in (out / "index.html").read_text()


def test_a_second_call_trains_nothing(finished):
    folder, out, _ = finished
    told = Told()
    before = json.loads((out / "results.json").read_text())
    after = reproduce([small()], "quick", out, told)
    assert told.cached == RUNS
    assert told.done == []
    assert costs(after) == costs(before)


def test_after_a_stop_the_same_call_goes_on(finished, tmp_path):
    _, out, _ = finished
    with pytest.raises(Interrupted, match=f"4 of {RUNS} runs are done"):
        reproduce([small()], "quick", tmp_path, Told(stop_after=4))
    assert not (tmp_path / "results.json").exists()
    (tmp_path / "cache" / "half.1.unfinished").write_bytes(b"half a run")
    told = Told()
    content_ = reproduce([small()], "quick", tmp_path, told)
    assert told.cached >= 4  # the worker may have finished one more before it was ended
    assert len(told.done) == RUNS - told.cached
    assert not list((tmp_path / "cache").glob("*.unfinished"))
    wanted = costs(json.loads((out / "results.json").read_text()))
    found = costs(content_)
    assert found.keys() == wanted.keys()
    assert found.keys() == wanted.keys()
    # Where a buffer happens to lie decides how MindSpore's kernels split a sum, so last bits differ:
    # 2e-7 of the first cost was seen, and 2e-8 of the last.
    for digest, costs_ in found.items():
        assert np.allclose(costs_, wanted[digest], rtol=1e-5)


def test_ctrl_c_on_the_command_is_told_without_a_trace(tmp_path):
    config = tmp_path / "small.yaml"
    scale = {**content()["scales"]["quick"], "epochs": 400}
    config.write_text(
        yaml.safe_dump(content(scales={"quick": scale, "standard": scale, "full": scale}))
    )
    process = subprocess.Popen(
        command(config, tmp_path / "out", "--scale", "quick"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("cache/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in words
    assert "Traceback" not in words


class Page(HTMLParser):
    """Notes what a page refers to, and its elements."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.ids, self.open = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.sources += [found[name] for name in ("src", "href") if name in found]
        self.ids.add(found.get("id"))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(finished):
    _, out, _ = finished
    page = Page((out / "index.html").read_text())
    assert page.open == []
    for source in page.sources:
        assert source.startswith("data:image/png;base64,") or source[1:] in page.ids
    assert sum(source.startswith("data:") for source in page.sources) == 2


def test_the_report_has_claim_test_verdict_and_all_runs(finished):
    _, out, _ = finished
    (entry,) = json.loads((out / "results.json").read_text())["results"]
    (verdict,) = entry["verdicts"]
    page = html.unescape((out / "index.html").read_text())
    for text in (page, (out / "report.md").read_text()):
        for wanted in (
            verdict["claim"],
            verdict["test"],
            verdict["status"],
            entry["config_sha256"][:16],
        ):
            assert wanted in text
    for image in re.findall(r"\((figures/.*?\.png)\)", (out / "report.md").read_text()):
        assert (out / image).read_bytes().startswith(b"\x89PNG")
    with open(out / "runs.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["hash"] for row in rows] == [run["hash"] for run in entry["runs"]]
    with open(out / "curves.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == RUNS * 4  # before training, and three epochs


def test_a_run_that_diverged_is_shown_as_such(finished, tmp_path):
    _, out, _ = finished
    found = json.loads((out / "results.json").read_text())
    (entry,) = found["results"]
    for run in entry["runs"]:
        if run["optimizer"] == "AdaGrad":
            run["costs"][-1], run["diverged"] = "inf", True
    for line in entry["lines"]:
        if line["optimizer"] == "AdaGrad":
            line["final"], line["epochs_to_target"] = ["inf"] * 3, ["inf"] * 3
            line["tried"][0]["mean"] = "inf"
    (tmp_path / "results.json").write_text(json.dumps(found))
    text = write_report(tmp_path).read_text()
    assert "diverged" in text
    assert "never" in text


def test_tensorboard_reads_the_event_files(finished):
    from tensorboardX.proto.event_pb2 import Event

    _, out, _ = finished
    (entry,) = json.loads((out / "results.json").read_text())["results"]
    files = sorted((out / "tensorboard").rglob("events.out.tfevents.*"))
    assert len(files) == RUNS
    wanted = {tuple(round(cost, 4) for cost in run["costs"]) for run in entry["runs"]}
    found = set()
    for path in files:
        content_, at, values = path.read_bytes(), 0, []
        while at < len(content_):  # TFRecord: length, its checksum, an Event, its checksum
            length = int.from_bytes(content_[at : at + 8], "little")
            event = Event.FromString(content_[at + 12 : at + 12 + length])
            values += [round(value.simple_value, 4) for value in event.summary.value]
            at += length + 16
        found.add(tuple(values))
    assert {tuple(np.round(v, 3)) for v in found} == {tuple(np.round(v, 3)) for v in wanted}


def test_without_tensorboardx_the_option_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"pip install 'ms_adam\[tensorboard\]'"):
        EventFiles(tmp_path)


def test_options_of_figures_are_refused_for_others(invoke, tmp_path):
    (tmp_path / "other.yaml").write_text("kind: images\n")
    (tmp_path / "figure.yaml").write_text(yaml.safe_dump(content()))

    def words(*arguments):
        ended = invoke("reproduce", *arguments, "--out", tmp_path / "out")
        assert ended.exit_code == 2
        return ended.output

    assert "--scale is for the configs" in words(tmp_path / "other.yaml", "--scale", "quick")
    assert "--jobs is for" in words(tmp_path / "other.yaml", "--jobs", "2")
    assert "--tensorboard is for" in words(tmp_path / "other.yaml", "--tensorboard")
    assert "has not kind: paper_figure" in words(tmp_path / "other.yaml", tmp_path / "figure.yaml")
    assert "--scale huge" in words(tmp_path / "figure.yaml", "--scale", "huge")


def test_a_cached_run_comes_back_as_it_was(tmp_path):
    cache = Cache(tmp_path)
    assert cache.load("a") is None
    cache.store("a", outcome(3, 2, np.inf))
    found = cache.load("a")
    assert np.array_equal(found.costs, [3, 2, np.inf])
    assert (found.steps, found.seconds, found.diverged) == (10, 0.5, True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_runs_are_taken_by_one_process_and_given_back(tmp_path):
    cache = Cache(tmp_path)
    other = (
        "import sys, time; from pathlib import Path\n"
        "from ms_adam.lab.studies.paper.cache import Cache\n"
        "with Cache(Path(sys.argv[1])).taken('a') as taken:\n"
        "    print(taken, flush=True)\n"
        "    time.sleep(600 if taken else 0)\n"
    )

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", other, str(tmp_path)], text=True, stdout=subprocess.PIPE
        )

    with start() as first:
        assert first.stdout.readline() == "True\n"
        with cache.taken("a") as taken:
            assert not taken
        with cache.taken("b") as taken:
            assert taken
        first.kill()  # what it had taken is free again
    with cache.taken("a") as taken:
        assert taken
        with start() as second:
            assert second.stdout.readline() == "False\n"


def test_the_code_that_numbers_come_from_is_in_the_hash(monkeypatch, tmp_path):
    from ms_adam.lab.studies.paper import cache

    monkeypatch.setattr(cache, "_PACKAGE", tmp_path)
    path = tmp_path / "optimizer.py"
    digests = []
    for text in ("a = 1\n", "a = 1  # a remark\n", "a = 2\n"):
        path.write_text(text)
        code_digest.cache_clear()
        digests.append(code_digest())
    code_digest.cache_clear()
    assert digests[0] == digests[1] != digests[2]
