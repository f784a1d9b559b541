"""Save and load by MindSpore's own means, in another process: as if there had been no end."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from round_trip import FORGOTTEN

from ms_adam.compat import HAS_AMSGRAD_KERNEL

FOLDER = Path(__file__).parent
MODES = ("graph", "pynative")


def process(action, mode, folder):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "round_trip.py"), action, mode, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "GLOG_v": "4"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{mode: (what was saved, what was loaded)}; the modes run beside each other."""

    def save_and_load(mode):
        folder = tmp_path_factory.mktemp(mode)
        return process("save", mode, folder), process("load", mode, folder)

    with ThreadPoolExecutor() as pool:
        return dict(zip(MODES, pool.map(save_and_load, MODES)))


@pytest.mark.parametrize("mode", MODES)
def test_ten_steps_a_file_and_ten_more_are_twenty(results, mode):
    """Every backend and layout, option and dtype; parameters, moments, powers and counts."""
    saved, loaded = results[mode]
    assert len(saved["runs"]) == len(set(saved["runs"])) >= 13
    forgotten = loaded["different"].pop(FORGOTTEN)
    assert "moment1.layer0.weight" in forgotten and "layer0.weight" in forgotten
    assert loaded == {**saved, "different": {}}


def test_modes_together_have_all_layouts_and_options(results):
    names = {run for saved, _ in results.values() for run in saved["runs"]}
    assert len(names) == (20 if HAS_AMSGRAD_KERNEL else 18)
