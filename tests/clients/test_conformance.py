"""The rows of docs/conformance.md on packages of which only the optimizers import."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from harness import PAGE

from ms_adam.lab.studies.identify import identify, partial_import, tables
from ms_adam.lab.targets import find

ROWS = PAGE.with_name("conformance.md").read_text().splitlines()


@pytest.mark.parametrize(
    "target", ["mindnlp.core.optim.Adam", "mindnlp.core.optim.AdamW", "mindocr.optim.adamw.AdamW"]
)
def test_a_row_is_what_is_measured(target):
    assert "| " + " | ".join(tables.conformance_row(identify(target))) + " |" in ROWS


def test_the_packages_as_a_whole_do_not_import():
    done = subprocess.run(
        [sys.executable, "-c", "import mindnlp"], capture_output=True, text=True, check=False
    )
    error = "module 'mindspore.common' has no attribute '_stub_tensor'"
    assert done.returncode == 1 and error in done.stderr and error in PAGE.read_text()
    # Which mindocr's models import, apart from packages that are not installed here.
    assert importlib.util.find_spec("mindspore.parallel._transformer") is None


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_mindnlp_keeps_no_moments_of_float16_weights(name):
    partial_import.prepare(f"mindnlp.core.optim.{name}")
    target = find(f"mindnlp.core.optim.{name}")
    for dtype, kept in (("float32", True), ("float16", False)):
        optimizer = target.build([target.trial().parameter(np.ones(3), dtype)])
        optimizer.step([np.full(3, 0.5)])
        state = optimizer.state()
        assert [state[quantity][0].any() for quantity in ("moment1", "moment2")] == [kept, kept]
