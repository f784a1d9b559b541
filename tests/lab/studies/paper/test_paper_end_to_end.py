"""A small figure through the command: its runs, what a stop leaves, the report, event files."""

import copy
import json
import re

import numpy as np
import pytest
from lab.run.changed_configs import write
from lab.studies.paper.paper_figures import content, figure, scales, session
from lab.studies.reproduced import interrupt
from lab.studies.reproduced import reproduce as by_command

from ms_adam.lab.errors import Interrupted, UserError
from ms_adam.lab.studies.paper.study import STUDY
from ms_adam.lab.studies.ranks.study import STUDY as RANKS

# Two trials and two seeds of each optimizer do not decide the claim, so a third seed follows.
FIRST, RUNS = 2 * (2 + 2), 2 * (2 + 3)
SCALES = scales(looks=[2, 3], minutes=10.0)


class Watcher:
    """Collects messages and finished runs; may press Ctrl-C."""

    def __init__(self, stop_after=None):
        self.stop_after, self.messages, self.done, self.shares = stop_after, [], [], []

    def tell(self, message):
        self.messages.append(message)

    def __call__(self, name, running, done, total, *, slot, whole):
        assert name == "small" and slot in (0, 1)
        self.shares.append(whole[0] / whole[1])
        if done == total and running not in self.done:
            self.done.append(running)
            if len(self.done) == self.stop_after:
                raise KeyboardInterrupt

    @property
    def cached(self):
        return int(re.match(r"\d+ runs, of which (\d+) are done already", self.messages[0])[1])


def reproduce(out, watcher, jobs=2):
    return STUDY.run([figure(scales=SCALES)], session(out, watcher, watcher.tell, jobs=jobs))


def costs(found):
    return {run["hash"]: run["costs"] for run in found["results"][0]["runs"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run by the command."""
    options = ("--scale", "quick", "--tensorboard", "--json", "copy.json")
    return by_command(tmp_path_factory.mktemp("paper"), content(scales=SCALES), *options)


def test_the_command_writes_results_and_a_copy(finished):
    ended, out, found = finished
    assert ended.returncode == 0
    assert f"{FIRST} runs, of which 0 are done already" in ended.stderr
    assert f"{RUNS} runs, of which {FIRST} are done already" in ended.stderr
    assert "reproduced" in ended.stdout or "inconclusive" in ended.stdout
    assert "tensorboard --logdir" in ended.stdout + ended.stderr
    assert found["schema"] == 1
    assert found == json.loads((out.parent / "copy.json").read_text())
    assert len(finished.entry["runs"]) == RUNS
    assert finished.entry["examples"] == 60
    assert str(out.parent) not in (out / "index.html").read_text()


def test_a_second_call_trains_nothing(finished):
    watcher = Watcher()
    after = reproduce(finished.out, watcher)
    assert watcher.cached == RUNS
    assert watcher.done == []
    assert costs(after) == costs(finished.content)


def test_after_a_stop_the_same_call_goes_on(finished, tmp_path):
    wanted = costs(finished.content)
    with pytest.raises(Interrupted, match=rf"[4-7] of {FIRST} runs are done"):
        reproduce(tmp_path, Watcher(stop_after=4), jobs=1)
    assert not (tmp_path / "results.json").exists()
    (tmp_path / "cache" / ".unfinished-1").mkdir()  # of a process that was killed
    watcher = Watcher()
    found = costs(reproduce(tmp_path, watcher))
    assert watcher.cached >= 4  # a worker may have finished one more before it was ended
    assert len(watcher.done) == RUNS - watcher.cached
    falls = [b < a for a, b in zip(watcher.shares, watcher.shares[1:])]
    assert sum(falls) == 1 and watcher.shares[-1] == pytest.approx(1)  # two rounds
    assert not list((tmp_path / "cache").glob(".unfinished-*"))
    assert found.keys() == wanted.keys()
    # The address of a buffer decides how MindSpore's kernels split a sum, so last bits differ: by
    # 2e-7 of the first cost and 2e-8 of the last in one measurement.
    for digest, costs_ in found.items():
        assert np.allclose(costs_, wanted[digest], rtol=1e-5)


def test_ctrl_c_ends_the_command_with_a_message(tmp_path):
    config, out = write(tmp_path, content(scales=scales(epochs=400))), tmp_path / "out"
    arguments = (config, "--out", out, "--scale", "quick")
    words = interrupt(tmp_path, *arguments, ready=lambda _: list(out.glob("cache/*.npz")))
    assert "the same command goes on from there" in words


def test_the_page_is_whole_and_needs_no_other_file(finished):
    page = (finished.out / "index.html").read_text()
    ids = re.findall(r' id="([^"]*)"', page)
    sources = re.findall(r' (?:src|href)="([^"]*)"', page)
    pictures = [source for source in sources if source.startswith("data:image/png;base64,")]
    assert len(pictures) == 2
    assert all(source[1:] in ids for source in sources if source not in pictures)
    stack = []
    for end, tag in re.findall(r"<(/?)(\w+)", page):
        if end:
            assert stack.pop() == tag
        elif tag not in ("meta", "img", "br"):
            stack.append(tag)
    assert stack == []


def test_the_report_shows_a_run_that_diverged(finished, tmp_path):
    found = copy.deepcopy(finished.content)
    (entry,) = found["results"]
    for run in entry["runs"]:
        if run["optimizer"] == "AdaGrad":
            run["costs"][-1], run["diverged"] = "inf", True
    for line in entry["lines"]:
        if line["optimizer"] == "AdaGrad":
            line["final"], line["epochs_to_target"] = ["inf"] * 3, ["inf"] * 3
            line["tried"][0]["mean"] = "inf"
    (tmp_path / "results.json").write_text(json.dumps(found))
    text = STUDY.write_page(tmp_path).read_text()
    assert "diverged" in text
    assert "never" in text


def test_the_event_files_have_the_costs_of_all_runs(finished):
    from tensorboardX.proto.event_pb2 import Event

    files = sorted((finished.out / "tensorboard").rglob("events.out.tfevents.*"))
    assert len(files) == RUNS
    events = set()
    for path in files:
        data, at, values = path.read_bytes(), 0, []
        while at < len(data):  # TFRecord: length, its checksum, an Event, its checksum
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            values += [value.simple_value for value in event.summary.value]
            at += length + 16
        events.add(tuple(np.round(values, 3)))
    assert events == {tuple(np.round(run["costs"], 3)) for run in finished.entry["runs"]}


def test_without_tensorboardx_the_option_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'ms_adam\[tensorboard\]'"):
        STUDY.run([figure()], session(tmp_path, Watcher(), tensorboard=True))


def test_an_unknown_scale_is_refused(invoke, tmp_path):
    config = write(tmp_path, content())
    ended = invoke("reproduce", config, "--scale", "huge", "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert "--scale huge: must be one of quick, standard, full" in " ".join(ended.output.split())


def test_the_options_of_figures_are_refused_for_others():
    assert STUDY.options == ("scale", "jobs", "tensorboard")
    assert not set(STUDY.options) & set(RANKS.options)
