"""One small experiment through the real command: every process, both modes, report and all."""

import re
from pathlib import Path

import numpy as np
import pytest
from lab.problems.idx_files import write_part
from lab.studies.images.test_images_study import small_config
from lab.studies.reproduced import interrupt, reproduce

from ms_adam.lab.sides import read

QUICK = Path(__file__).parents[4] / "configs" / "quick.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    write_part(folder, "train", 120)
    return reproduce(folder, small_config(), "--json", "copy.json")


@pytest.fixture(scope="module")
def results(finished):
    return [read(finished.out / "small", run) for run in finished.entry["runs"]]


def test_exit_status_is_the_verdicts(finished):
    assert finished.ended.returncode == (0 if set(finished.statuses) == {"held"} else 1)
    # The claims about formulas and bits hold in a few steps; accuracy needs a real training.
    assert finished.statuses[:4] == ["held"] * 4


def test_command_told_where_the_report_is(finished):
    done = finished.ended
    assert "The report: out/index.html" in done.stdout
    assert "small, pynative: 16 of 16" not in done.stdout  # progress is not output
    assert "small, pynative: 32 of 32 steps" in done.stderr
    assert (finished.out / "index.html").stat().st_size > 50_000  # three plots are in it


def test_json_holds_everything_and_no_path(finished):
    content, text = finished.content, (finished.out / "results.json").read_text()
    assert (finished.out.parent / "copy.json").read_text() == text
    assert content["schema"] == 1
    assert content["environment"]["device_target"] == "CPU"
    assert len(finished.entry["runs"]) == 2 * 2 * 2 + 2
    assert str(finished.out.parent) not in text


def test_all_runs_of_a_seed_start_alike_and_see_the_same_batches(results):
    for seed in (0, 1):
        runs = [result.arrays for result in results if result.seed == seed]
        assert len(runs) == 5
        for arrays in runs[1:]:
            np.testing.assert_array_equal(arrays["initial"], runs[0]["initial"])
            # The first loss is that of the first batch before any update.
            assert arrays["loss"][0] == runs[0]["loss"][0]
            assert arrays["gradient_digest"][0] == runs[0]["gradient_digest"][0]
    assert results[0].arrays["loss"][0] != results[1].arrays["loss"][0]  # another seed


def test_runs_learned_something(results):
    for result in results:
        assert len(result.arrays["loss"]) == 8 and len(result.arrays["test_accuracy"]) == 2
        assert result.arrays["loss"][-1] < result.arrays["loss"][0]


def test_reference_was_never_rounded(results):
    final = next(r for r in results if r.optimizer == "float64 reference").arrays["final"]
    assert final.dtype == np.float64
    assert np.any(final != final.astype(np.float32))


def test_interrupt_ends_everything(tmp_path):
    def trained(told):  # a worker, for some steps
        return re.search("graph: [1-9]", told)

    words = interrupt(tmp_path, QUICK, "--out", tmp_path, ready=trained)
    assert re.search(r"stopped: \d+ of 15 runs are kept", words)
    assert not (tmp_path / "index.html").exists()
    assert (tmp_path / "quick" / "worker_graph.log").exists()
    assert not (tmp_path / "quick" / "worker_pynative.log").exists()
