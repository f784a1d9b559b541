"""The page of a comparison, from files made by hand: no training."""

import json
import re

import numpy as np
import pytest

from ms_adam.lab.measure import METRICS
from ms_adam.lab.report.studies import compare as page
from ms_adam.lab.studies.compare.checks import DIFFERENCE, Checks
from ms_adam.lab.studies.compare.config import Tolerance
from ms_adam.lab.studies.compare.distances import Distances
from ms_adam.lab.studies.compare.judge import judge
from ms_adam.lab.studies.compare.run import _worst

STEPS = 5
NAMES = ["layers.0.weight", "<b>&layers.0.bias"]
QUANTITIES = ["gradient", "moment1", "moment2", "parameter"]
RELATIVE = list(METRICS).index("relative")


def distances(relative=0.0):
    found = Distances.empty(NAMES, ["loss", *QUANTITIES], STEPS)
    found.tables["parameter"][RELATIVE, 1:, 0] = relative
    found.tables["parameter"][-1, 1:, 0] = relative != 0
    return found


def checks(share=0.0):
    found = Checks.empty(NAMES, ["loss", *QUANTITIES], STEPS)
    for table in found.tables.values():
        table[:] = np.reshape([0.0, 1.0, 1.0], (3, 1, 1))
    found.tables["parameter"][DIFFERENCE, 1:, 0] = share
    return found


@pytest.fixture
def write(tmp_path):
    """Writes what `run.compare` would have, and the page; returns the page's text."""

    def with_distance(relative, loss=0.5):
        free, found = distances(relative), {"A <1>": checks(), "B": checks(1e3 * relative)}
        free.save(tmp_path / "free.npz")
        for name, of in found.items():
            of.save(tmp_path / f"checks_{name[0]}.npz")
        verdict = judge(found, free, Tolerance(), "A <1>")
        sides = []
        for name in ("A <1>", "B"):
            np.savez(
                tmp_path / f"{name[0]}.npz",
                names=np.array(NAMES),
                gradient_norm=np.ones((STEPS, 2)),
            )
            ones = [1.0] * STEPS
            sides.append(
                {
                    "side": name,
                    "mode": "graph",
                    "ranks": 1 + len(sides),
                    "optimizer": "ms_adam.Adam",
                    "backend": None,
                    "file": f"{name[0]}.npz",
                    "dtypes": {"parameter": ["float32"]},
                    "loss": [0.5] * (STEPS - 1) + [loss],
                    "gradient_norm": ones,
                    "learning_rate": {"least": ones, "most": ones},
                    "c1": ones,
                    "c2": ["nan"] * STEPS,
                    "weight_decay": [{"parameter": n, "least": 0.0, "most": 0.1} for n in NAMES],
                    "non_finite": {"gradient": 3},
                }
            )
        pair = {
            "sides": ["A <1>", "B"],
            "must_hold": True,
            "status": verdict.status,
            "sentence": verdict.sentence,
            "cause": verdict.cause,
            "files": {"free": "free.npz", "checks": ["checks_A.npz", "checks_B.npz"]},
            "free": _worst(free),
        }
        entry = {
            "title": "T & U",
            "config": {"training": {"batch_size": 7, "seed": 1}},
            "steps": STEPS,
            "parameters": [{"name": n, "shape": [2, 3]} for n in NAMES],
            "sides": sides,
            "pairs": [pair],
        }
        content = {"schema": 1, "environment": {"mindspore": "2.x"}, "results": [entry]}
        (tmp_path / "compare.json").write_text(json.dumps(content))
        return page.write_page(tmp_path).read_text(encoding="utf-8")

    return with_distance


def test_page_has_verdict_pictures_and_environment(write):
    text = write(0.25)
    assert "part in step 2, in the update" in text
    assert text.count("data:image/png;base64,") == 3  # sides, curves, heat map
    assert "2.x" in text and "graph, 2 ranks" in text
    assert '<td class="number">2.5e-1</td>' in text  # the worst distance
    assert '<td class="number">2.5e2</td>' in text  # the share of the bound
    assert "λ 0 to 1.0e-1" in text  # weight decay that changes


def test_nothing_is_loaded_and_names_are_text(write):
    text = write(0.25)
    assert not re.search(r"(src|href)=\"(?!data:|\.\./)", text)  # ../ are pages of other studies
    assert "A &lt;1&gt;" in text and "<b>&layers" not in text and "T &amp; U" in text


def test_equal_pair_has_no_pictures_of_distances(write):
    text = write(0.0)
    assert "equal in every bit" in text
    assert text.count("data:image/png;base64,") == 1


@pytest.mark.parametrize("relative", [np.inf, 1e-300])
def test_extreme_distances_can_be_drawn(write, relative):
    assert "data:image/png" in write(relative, loss="nan")


def test_heat_map_of_many_parameters_keeps_those_nearest_to_their_bounds():
    found = Checks.empty([f"p{i}" for i in range(100)], QUANTITIES, STEPS)
    for table in found.tables.values():
        table[:] = 1.0
    found.tables["parameter"][DIFFERENCE] = found.tables["gradient"][DIFFERENCE] = 0.0
    found.tables["parameter"][DIFFERENCE, :, 90:] = 0.5
    drawn = page.heat_map(found)
    found.tables["parameter"][DIFFERENCE, :, 90:] = 0.0  # were they left out, none would be seen
    assert drawn.startswith(b"\x89PNG") and drawn != page.heat_map(found)
