"""How claims are judged, and how the number that decides a claim is written."""

import pytest

from ms_adam.lab.claims import Claim, Measured, Verdict, all_held, judge, short


def test_short_numbers():
    numbers = (2.13e-6, 0.12, 1.0, float("nan"))
    assert [short(number) for number in numbers] == ["2.1e-6", "1.2e-1", "1.0", "nan"]


@pytest.mark.parametrize(
    "measured, verdict",
    [
        (Measured(True, "1", "at most 2"), ("held", "1", "at most 2", "Because.")),
        (Measured(False, "3", "at most 2"), ("not held", "3", "at most 2", "Because.")),
        (Measured(None, "nan", "at most 2"), ("not measured", "nan", "at most 2", "Because.")),
        (None, ("not measured", "two runs", "", "Because.")),  # without the runs that it needs
        (Measured(True, "1", "", "So."), ("held", "1", "", "So.")),  # with a reason of its own
    ],
)
def test_a_measurement_decides(measured, verdict):
    claim = Claim("It is.", "Because.", "two runs", lambda found: found)
    assert judge([claim], measured) == [Verdict("It is.", *verdict)]


def test_only_attributes_that_a_verdict_has_are_written():
    written = {"claim": "It is.", "status": "reproduced", "measured": ["1"], "test": "t"}
    assert Verdict("It is.", "reproduced", ["1"], test="t").as_dict() == written


def test_a_figure_that_is_not_reproduced_fails_nothing():
    held = {"status": "held"}
    assert all_held([held, {"status": "not reproduced"}, {"status": "inconclusive"}])
    for status in ("not held", "not measured"):
        assert not all_held([held, {"status": status}])
