"""The study of narrow state: each claim can be held, open and lost, and a small run is written."""

import math

import numpy as np
import pytest
from lab.problems.idx_files import write_part
from lab.studies.images.test_images_study import small_config
from lab.studies.reproduced import reproduce

from ms_adam.lab.claims import HELD, NOT_HELD, NOT_MEASURED, judge
from ms_adam.lab.report.studies.narrow import side_table
from ms_adam.lab.studies.narrow import CLAIMS, SIDES

CONFIG = {"compare": {"factor": 1.05, "least_accuracy": 0.9}}
BFLOAT16, _, _, _, BITS, TRAINS = CLAIMS


def runs(side, factors, seeds=5):
    """Rows of a side whose losses are these factors of those of float32 state."""
    wide = [{"optimizer": "float32", "seed": s, "final_loss": 0.1 + 0.02 * s} for s in range(seeds)]
    own = [
        {**row, "optimizer": side, "final_loss": f * row["final_loss"]}
        for row, f in zip(wide, factors)
    ]
    return [{**row, "label": "x", "test_accuracy": 0.95, "unlike": None} for row in wide + own]


@pytest.mark.parametrize(
    "factors, seeds, status",
    [
        ([1.02, 0.97, 1.0, 1.01, 1.04], 5, HELD),
        ([1.02, 0.97, 1.0, 1.01, 1.06], 5, NOT_MEASURED),  # one seed leaves it open
        ([1.06, 1.07, 1.06, 1.2, 1.06], 5, NOT_HELD),
        ([0.90, 0.91, 0.92, 0.90, 0.90], 5, NOT_HELD),  # better is not the same
        ([1.0, 1.0, 1.0, 1.0, math.nan], 5, NOT_HELD),
        ([1.0, 1.0, 1.0, 1.0], 4, NOT_MEASURED),
    ],
)
def test_losses_are_compared_seed_by_seed(factors, seeds, status):
    entry = {"config": CONFIG, "runs": runs("bfloat16", factors, seeds)}
    assert judge([BFLOAT16], entry)[0].status == status


def test_the_table_shows_a_run_that_diverged():
    more = {"backend": "fused", "state_bytes": 4.0, "test_loss": 0.2}
    rows = [{**row, **more} for row in runs("bfloat16", [1.0] * 5)]
    rows[-1].update(final_loss="nan", test_loss="inf")  # as results.json has them
    wide, own = side_table(rows).rows
    assert wide[4] == "1.0000 (1.0000 to 1.0000)" and own[3:6] == ["nan", "nan (nan to nan)", "inf"]


def test_bits_and_accuracy():
    rows = runs("split", [1.0] * 5)
    for unlike, status in ((None, NOT_MEASURED), (0, HELD), (7, NOT_HELD)):
        rows[-1]["unlike"] = unlike
        found = judge([BITS], {"config": CONFIG, "runs": rows})[0]
        assert found.status == status and ("7 masters differ" in found.measured) == (unlike == 7)
    assert judge([TRAINS], {"config": CONFIG, "runs": rows})[0].status == HELD
    rows[0]["test_accuracy"] = 0.89
    assert judge([TRAINS], {"config": CONFIG, "runs": rows})[0].status == NOT_HELD


def test_a_small_run(tmp_path):
    write_part(tmp_path, "train", 120)
    compare = {"sides": list(SIDES), "seeds": [0], "factor": 1.05, "least_accuracy": 0.25}
    finished = reproduce(tmp_path, {**small_config(), "study": "narrow", "compare": compare})
    entry, folder = finished.entry, finished.out / "small"
    assert finished.statuses[:5] == ["not measured"] * 4 + ["held"]  # of one seed only bits
    rows = {row["optimizer"]: row for row in entry["runs"]}
    arrays = {side: dict(np.load(folder / row["file"])) for side, row in rows.items()}
    # 4 + 4 tensors: 36 x 8, 8, 8 x 4 and 4 elements, an exponent each for two moments but one
    # with 2, and at most 32 bytes of numbers.
    elements = 36 * 8 + 8 + 8 * 4 + 4
    least = {"float32": 8, "bfloat16": 4, "int8": 2, "masters": 12, "split": 10, "int8, split": 4}
    for side, count in least.items():
        exponents = 2 * 5 if "int8" in side else 0
        extra = rows[side]["state_bytes"] * elements - count * elements - exponents
        assert 0 <= extra <= 32, side
    # From one place, the first step is that of float32 state: the moments are rounded after it.
    for side in ("bfloat16", "int8"):
        assert arrays[side]["loss"][1] == arrays["float32"]["loss"][1]
        assert np.any(arrays[side]["final"] != arrays["float32"]["final"])
    page = (finished.out / "index.html").read_text()
    assert "int8, split" in page and page.count("data:image/png") == 1
    assert f"images from the folder <code>{tmp_path.name}</code> for\n2 epochs" in page
