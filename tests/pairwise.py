"""Fewer combinations of the parameters of a test that compiles graphs.

Such a test has a parameter `backend` or `mode`. Where it has more than two, most combinations only
repeat pairs of values that others have: they run with `--product`. `ms-adam validate` runs the full
product of cases, dtypes, modes and backends.
"""

import itertools


def cover_of_pairs(items):
    """The tests of a list, without the combinations that hold no new pair of values."""
    combinations = {}
    for item in items:
        pairs = pairs_of(item)
        if pairs:
            combinations.setdefault((item.path, item.cls, item.originalname), {})[item] = pairs
    left_out = {item for of_test in combinations.values() for item in of_test}
    left_out.difference_update(*map(cover, combinations.values()))
    return [item for item in items if item not in left_out]


def pairs_of(item):
    """Pairs of the values that a test runs with; rows of a table are values of one parameter."""
    values = dict(getattr(getattr(item, "callspec", None), "params", {}))
    if not {"backend", "mode"} & set(values):
        return set()
    parameters = []
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0]
        names = names.replace(",", " ").split() if isinstance(names, str) else names
        parameters.append(tuple((name, id(values.pop(name))) for name in names))
    parameters += [((name, id(value)),) for name, value in values.items()]  # of fixtures
    return set(itertools.combinations(parameters, 2))


def cover(pairs):
    """The keys of a dict of sets that hold every element between them."""
    missing, kept = set().union(*pairs.values()), []
    while missing:
        kept.append(max(pairs, key=lambda key: len(pairs[key] & missing)))
        missing -= pairs[kept[-1]]
    return kept
