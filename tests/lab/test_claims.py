"""How the number that decides a claim is written."""

from ms_adam.lab.claims import short


def test_short_numbers():
    numbers = (2.13e-6, 0.12, 1.0, float("nan"))
    assert [short(number) for number in numbers] == ["2.1e-6", "1.2e-1", "1.0", "nan"]
