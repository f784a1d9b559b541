"""CPU time of watched and other runs."""

import sys
from pathlib import Path

import pytest

from ms_adam.lab.studies.watch.cost import Cost, measured, rows

SCRIPT = str(Path(__file__).with_name("training.py"))


def test_rows_have_medians_and_what_each_round_adds():
    rounds = [
        {
            "without watch": Cost(10 * cpu, cpu, None, 0),
            "`--every 0`": Cost(11 * cpu, 1.1 * cpu, 0.01, 0),
            "default": Cost(10 * cpu, cpu + 1.0, 0.05 + 0.01 * cpu, 10),
        }
        for cpu in (2.0, 1.0, 4.0)
    ]
    without, unlooked, default = (" | ".join(row) for row in rows(rounds))
    assert without == "without watch | 20.00 (10.00 to 40.00) |  | 2.00 (1.00 to 4.00) |  |  | "
    assert "| 22.00 (11.00 to 44.00) | +10.0% (+10.0% to +10.0%) | 2.20" in unlooked
    assert "| +10.0% (+10.0% to +10.0%) | 1.00% (1.00% to 1.00%) | 0" in unlooked
    assert "| 3.00 (2.00 to 5.00) | +50.0% (+25.0% to +100.0%) | 7.00% (6.00% to 9.00%)" in default


def test_the_time_of_processes_is_measured(capfd):
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    plain = measured([sys.executable, "-c", burn], None)
    assert 0.5 <= plain.cpu <= 2 * plain.time and plain.cpu < 1.0 and plain.share is None
    watched = measured([sys.executable, SCRIPT, "given", "3", "0"], {"every": 1})
    assert watched.looks == 3 and watched.share > 0 and watched.cpu > 0.5
    assert "given" not in capfd.readouterr().out
    with pytest.raises(SystemExit, match="status 2"):
        measured([sys.executable, SCRIPT, "given", "1", "2"], {})
