"""docs/scaling.md: its tables come from docs/scaling.json; the cost model follows its formulas."""

import json
from pathlib import Path

import pytest

from ms_adam.lab.report import plots
from ms_adam.lab.report.studies import ranks as scaling
from ms_adam.lab.studies.ranks import cost
from ms_adam.lab.studies.ranks.cost import Wire, sent_bytes, state_bytes, step_seconds

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def run():
    return json.loads((DOCS / "scaling.json").read_text())


def test_the_page_has_the_tables_of_the_run(run):
    tables = scaling.tables(run["results"][0], run["environment"]["cores"])
    assert tables in (DOCS / "scaling.md").read_text()


def test_the_run_is_of_one_two_and_four_workers(run):
    rows = scaling.measured(run["results"][0], run["environment"]["cores"])
    assert {row["workers"] for row in rows} == {1, 2, 4}
    for row in rows:  # the model must predict the state to within a row of a table
        assert row["state_bytes"] == pytest.approx(row["model_state_bytes"], abs=2 * 8 * 1000)


def test_the_picture_has_the_measurements(run, monkeypatch):
    monkeypatch.setattr(plots, "png", lambda figure: figure)
    rows = scaling.measured(run["results"][0], 2)
    for axis, key, unit in zip(
        scaling.draw(run["results"][0], 2).axes, ("state_bytes", "step_ms"), (1e6, 1)
    ):
        lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
        for state in ("whole", "sharded"):  # one process has all of the state
            own = [row for row in rows if row["workers"] == 1 or row["state"] == state]
            points = [[row["workers"], row[key] / unit] for row in own]
            assert lines[f"{state}, measured"] == points


def test_a_step_is_modelled_by_that_of_one_process_in_the_same_mode(run):
    (entry,) = run["results"]
    slow = [{**row, "mode": "pynative", "step_ms": 9e3} for row in entry["trainings"]]
    both = {**entry, "trainings": [*entry["trainings"], *slow]}
    assert scaling.measured(both, 2) == scaling.measured(entry, 2)


def test_two_ranks_exchange_by_hand():
    """4 bytes a number; an AllReduce of two ranks sends half of them there and half back."""
    wire = Wire(hop=3e-6, byte=2e-9)
    assert wire.all_reduce(1000, 2) == pytest.approx(2 * 3e-6 + 1000 * 2e-9)
    assert wire.all_gather(1000, 2) == pytest.approx(3e-6 + 500 * 2e-9)
    # four ranks on two cores: three hops of a quarter each, at half the speed
    busy = wire._replace(cores=2)
    assert busy.all_gather(1000, 4) == pytest.approx(2 * (3 * 3e-6 + 750 * 2e-9))
    assert busy.all_gather(1000, 2) == wire.all_gather(1000, 2)


def test_the_wire_is_found_again():
    true = Wire(hop=50e-6, byte=3e-9, cores=2)
    messages = [
        {
            "workers": ranks,
            "message": name,
            "numbers": n,
            "ms": 1e3 * getattr(true, function)(4 * n, ranks),
        }
        for ranks in (2, 4)
        for n in (1000, 10**5, 10**6)
        for name, function in (("AllReduce", "all_reduce"), ("AllGather", "all_gather"))
    ]
    found = cost.wire_from(messages, cores=2)
    assert found.hop == pytest.approx(true.hop) and found.byte == pytest.approx(true.byte)


def test_sharding_divides_state_and_update():
    assert state_bytes(10**6, 4, sharded=False) == 8e6
    assert state_bytes(10**6, 4, sharded=True) == 2e6
    assert sent_bytes(10**6, 4, sharded=False) == 6e6
    assert sent_bytes(10**6, 4, sharded=True) == 9e6
    # On a free wire a step costs the gradients and the update's 28 bytes.
    free = Wire(hop=0.0, byte=0.0)
    assert step_seconds(free, 8.0, 1e-9, [10**9], 4, sharded=False) == pytest.approx(2 + 28)
    assert step_seconds(free, 8.0, 1e-9, [10**9], 4, sharded=True) == pytest.approx(2 + 7)


def test_sharding_pays_where_the_wire_is_faster_than_a_seventh_of_the_memory():
    """It saves 28 (1 - 1/N) bytes of memory traffic and sends 4 (1 - 1/N) bytes more."""
    for share, quicker in ((6.9, True), (7.1, False)):
        wire = Wire(hop=0.0, byte=share * 1e-12)
        whole, sharded = (step_seconds(wire, 0.0, 1e-12, [10**9], 8, s) for s in (False, True))
        assert (sharded < whole) is quicker
