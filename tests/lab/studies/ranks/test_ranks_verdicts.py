"""Each claim about data-parallel trainings can fail."""

import numpy as np
import pytest
from lab.studies.ranks.small_ranks import ranks_config

from ms_adam.lab.studies.ranks.study import RanksConfig, _distance, verdicts

CONFIG = RanksConfig.model_validate(ranks_config())
CLAIMS = ["all ranks end", "those of one process", "sharded state gives", "divide the state"]


def rows():
    """Rows of two ranks for which all claims hold."""
    return [
        {
            "mode": "graph",
            "workers": 2,
            "problem": problem,
            "optimizer": "AdamW",
            "state": state,
            "digests": [problem, problem],
            "from_one_process": 1e-7,
            "undivided_bytes": 100,
            "state_bytes": [800, 800] if state == "whole" else [500, 300],
        }
        for problem in ("images", "words")
        for state in ("whole", "sharded")
    ]


def failed(changed):
    """The claims that do not hold."""
    found = verdicts(CONFIG, changed)
    assert len(found) == len(CLAIMS)
    assert all(claim in verdict.claim for claim, verdict in zip(CLAIMS, found))
    return [claim for claim, verdict in zip(CLAIMS, found) if verdict.status == "not held"]


def test_all_can_hold():
    assert failed(rows()) == []


@pytest.mark.parametrize(
    "row, values, claims",
    [
        (0, {"digests": ["images", "other"]}, ["all ranks end"]),
        (3, {"digests": ["words", "other"]}, ["all ranks end"]),
        (1, {"digests": ["other", "other"]}, ["sharded state gives"]),
        (2, {"from_one_process": 2e-6}, ["those of one process"]),
        (2, {"from_one_process": float("nan")}, ["those of one process"]),
        (3, {"from_one_process": float("inf")}, ["those of one process"]),
        (1, {"state_bytes": [500, 299]}, ["divide the state"]),  # a part is kept nowhere
        (1, {"state_bytes": [500, 500]}, ["divide the state"]),  # a part is kept twice
        (3, {"state_bytes": [800, 0]}, ["divide the state"]),  # nothing is divided
        (3, {"state_bytes": [501, 299]}, ["divide the state"]),  # more than half and a row
    ],
)
def test_each_can_fail(row, values, claims):
    changed = rows()
    changed[row].update(values)
    assert failed(changed) == claims


def test_no_trainings_hold_no_claim():
    assert failed([]) == CLAIMS


def test_distance_is_the_largest_and_keeps_nan(tmp_path):
    def file(name, *values):
        np.savez(tmp_path / name, a=np.float32([1.0, 2.0]), b=np.float32(values))
        return tmp_path / name

    one = file("one.npz", 3.0)
    assert _distance(one, one) == 0.0
    assert _distance(file("two.npz", 3.5), one) == 0.5
    assert np.isnan(_distance(file("three.npz", np.nan), one))
