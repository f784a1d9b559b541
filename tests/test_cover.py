"""What tests/conftest.py leaves of the combinations of a test's parameters."""

import itertools

import pytest
from conftest import cover


def test_a_cover_has_every_pair_and_fewer_combinations():
    product = itertools.product("abc", (1, 2), (3, 4), (5, 6))
    pairs = {values: set(itertools.combinations(values, 2)) for values in product}
    kept = cover(pairs)
    assert set().union(*map(pairs.get, kept)) == set().union(*pairs.values())
    assert 6 <= len(kept) == len(set(kept)) <= 8 < len(pairs)


def test_tests_of_one_parameter_are_all_kept():
    assert cover({"graph": set(), "pynative": set()}) == ["graph", "pynative"]


@pytest.mark.parametrize("backend", ["fused", "composite"])
@pytest.mark.parametrize("row, of_row", [(1, 2), (1, 3), (2, 2), (2, 3)])
def test_rows_of_a_table_are_all_kept(request, row, of_row, backend):
    """A table is one parameter, whatever the number of its columns."""
    names = [item.name for item in request.session.items if item.path == request.path]
    own = request.function.__name__
    if len(request.session.items) > 2:
        assert sum(name.startswith(own) for name in names) in (1, 8)
