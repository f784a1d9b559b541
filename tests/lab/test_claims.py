"""How claims are judged, and how the number that decides a claim is written."""

import pytest

from ms_adam.lab.claims import Claim, Measured, Verdict, all_held, judge, short


def test_short_numbers():
    numbers = (2.13e-6, 0.12, 1.0, float("nan"))
    assert [short(number) for number in numbers] == ["2.1e-6", "1.2e-1", "1.0", "nan"]


@pytest.mark.parametrize(
    "measured, status",
    [
        (Measured(True, "1", "at most 2"), "held"),
        (Measured(False, "3", "at most 2"), "not held"),
        (Measured(None, "nan", "at most 2"), "not measured"),
    ],
)
def test_a_measurement_decides(measured, status):
    (verdict,) = judge([Claim("It is.", "Because.", "two runs", lambda found: measured)], None)
    assert verdict == Verdict("It is.", status, measured.measured, "at most 2", "Because.")


def test_a_claim_without_its_runs_is_not_measured():
    (verdict,) = judge([Claim("It is.", "Because.", "two runs", lambda found: found)], None)
    assert verdict == Verdict("It is.", "not measured", "two runs", "", "Because.")


def test_a_measurement_can_replace_the_reason():
    rows = [Claim("It is.", "Because.", "", lambda found: Measured(True, "1", "", found))]
    assert judge(rows, "So.")[0].why == "So."


def test_only_attributes_that_a_verdict_has_are_written():
    assert Verdict("It is.", "reproduced", ["1"], test="t").as_dict() == {
        "claim": "It is.",
        "status": "reproduced",
        "measured": ["1"],
        "test": "t",
    }


def test_a_figure_that_is_not_reproduced_fails_nothing():
    held = {"status": "held"}
    assert all_held([held, {"status": "not reproduced"}, {"status": "inconclusive"}])
    for status in ("not held", "not measured"):
        assert not all_held([held, {"status": status}])
