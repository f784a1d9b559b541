"""The cover of the combinations of a test's parameters."""

import itertools

import pytest
from pairwise import cover_of_pairs, pairs_of


class Item:
    """What pytest says of a test, as far as it is read."""

    path, cls, originalname = "test.py", None, "test"

    def __init__(self, marks, values):
        self.marks, self.callspec = marks, self
        self.params = values

    def iter_markers(self, _):
        return [pytest.mark.parametrize(names, []).mark for names in self.marks]


def items(values, *marks):
    """A test for each combination of values."""
    return [Item(marks, dict(zip(values, one))) for one in itertools.product(*values.values())]


def test_a_cover_has_every_pair_and_fewer_combinations():
    values = {"backend": "abc", "compiled": (1, 2), "mode": (3, 4), "dtype": (5, 6)}
    product = items(values, "compiled", "backend")
    kept = cover_of_pairs(product)
    assert set().union(*map(pairs_of, kept)) == set().union(*map(pairs_of, product))
    assert len(set().union(*map(pairs_of, kept))) == 3 * (2 + 2 + 2) + 3 * 2 * 2
    assert 6 <= len(kept) <= 8 < len(product)


def test_the_rows_of_a_table_are_all_kept():
    table = items({"backend": "ab", "dtype": (1, 2), "error": (3, 4)}, "backend, dtype, error")
    assert cover_of_pairs(table) == table


def test_what_compiles_nothing_is_all_kept():
    product = items({"case": "ab", "dtype": (1, 2), "error": (3, 4)}, "case", "dtype", "error")
    assert cover_of_pairs(product) == product
