"""`ms-adam watch` on a training of MindCV: the same bits, and the formula of docs/clients.md.

MindCV's AdamW counts a step whenever its get_lr() is called.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from ms_adam.lab.studies.watch import study, verdict

FORMULAS = {"adamw": "Algorithm 1, decoupled decay", "adam": "epsilon-hat"}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_training_of_mindcv(name, tmp_path, capfd):
    command = [sys.executable, str(Path(__file__).with_name("watched_mindcv.py")), name]

    def printed():
        lines = capfd.readouterr().out.splitlines()
        return [line for line in lines if line.startswith(("loss", "weight"))]

    subprocess.run(command, check=True)
    plain = printed()
    assert study.run(command, tmp_path, every=1) == 0
    assert printed() == plain and len(plain) > 6
    (record,) = study.records(tmp_path)
    found = verdict.summed_up(record)
    assert not found["faults"] and (found["calls"], found["looks"]) == (6, 6)
    assert found["gradients"] == "moments"  # the step is compiled as a whole
    assert found["formula"].startswith(FORMULAS[name])
    assert [float(f"{rate:.4g}") for rate in found["rates"]] == [float(f"{1e-3 / 6:.4g}"), 1e-3]
    # As in tests/lab: float32's rounding of an update; nn.Adam rounds 1 - beta2 besides.
    assert found["own"]["most"] < 2e-5
