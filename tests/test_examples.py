"""examples/: each script is short, and prints what it promises."""

import re
from pathlib import Path

import pytest

from tests.scripts_run import run_on_two_ranks, run_script

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
# A pattern of all lines that a script prints.
OUTPUT = {
    "drop_in": r"\w+ backend, accuracy (0\.9\d|1\.00) after 160 steps\n",
    "mixed_precision": r"master_weights=False: mean gain 1\.0000\n"
    r"master_weights=True: mean gain 0\.9(89|90)\d\n",
    "lazy_embedding": r"use_lazy=True: the second step moved rows 10 to 19\n"
    r"use_lazy=False: the second step moved rows 0 to 19\n",
    "whole_tail": r"[1-9]\d* steps skipped, 1\d\d made\nerror with averaged weights 0\.00\d\d\n",
    "migrate_checkpoint": r"step 20, largest difference to nn\.Adam (0\.0e\+00|\d\.\de-0[78])\n",
}
IN_OTHER_TESTS = {"data_parallel", "compare_own"}


@pytest.mark.parametrize("name", OUTPUT)
def test_example_prints_what_it_promises(name, tmp_path):
    output = run_script(EXAMPLES / f"{name}.py", tmp_path)
    assert re.fullmatch(OUTPUT[name], output), output


def test_two_workers_share_the_state_and_agree(tmp_path):
    logs = run_on_two_ranks(EXAMPLES / "data_parallel.py", tmp_path)
    pattern = r"^rank (\d) of 2: (\d+) of 27 .* (\S+)$"
    lines = [re.search(pattern, log, re.MULTILINE) for log in logs]
    assert [line[1] for line in lines] == ["0", "1"]
    assert sum(int(line[2]) for line in lines) == 27 and max(int(line[2]) for line in lines) < 27
    assert lines[0][3] == lines[1][3]


def test_each_example_is_short_and_run():
    scripts = {path.stem: path for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == {*OUTPUT, *IN_OTHER_TESTS}
    for name, path in scripts.items():
        assert len(path.read_text().splitlines()) < 60, name
