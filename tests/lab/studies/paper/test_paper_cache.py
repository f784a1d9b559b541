"""Finished runs, and the hash of the code that decides their numbers."""

import numpy as np
import pytest
from lab.problems.idx_files import write_part
from lab.studies.paper.paper_figures import figure, outcome

from ms_adam.lab.problems.images import DataError
from ms_adam.lab.studies.paper import cache as caching
from ms_adam.lab.studies.paper.cache import CachedFigure, code_digest
from ms_adam.lab.studies.paper.sweep import Spec, lines_of


def test_a_cached_run_is_unchanged(tmp_path):
    cached = CachedFigure(figure(), "quick", tmp_path)
    variant, contender = next(lines_of(cached.figure))
    spec = Spec(variant, contender, 0.1, 1)
    get = cached.finished(lambda spec: None)
    assert get(spec) is None
    cached.store(spec, outcome(3, 2, np.inf))
    found = get(spec)
    assert np.array_equal(found.costs, [3, 2, np.inf])
    assert (found.steps, found.seconds, found.diverged) == (10, 0.5, True)
    assert [path.name for path in tmp_path.iterdir()] == [f"{cached.digest(spec)}.npz"]


def test_less_than_a_batch_is_refused(tmp_path):
    write_part(tmp_path, "train", 24)
    data = {"source": "mnist", "idx_directory": str(tmp_path)}
    assert CachedFigure(figure(data=data), "quick", tmp_path).steps == 3
    with pytest.raises(DataError, match="small: batch_size = 20, .* only 18 examples to train on"):
        CachedFigure(figure(data=data, held_out=20), "quick", tmp_path)


@pytest.fixture
def package(monkeypatch, tmp_path):
    """An empty package in the place of ms_adam, and the digest of its code."""
    monkeypatch.setattr(caching, "_PACKAGE", tmp_path)

    def digest():
        code_digest.cache_clear()
        return code_digest()

    yield tmp_path, digest
    code_digest.cache_clear()


@pytest.mark.parametrize(
    "path, same, different",
    [
        ("optimizer.py", "a = 1  # a remark\n", "a = 2\n"),
        ("backends/kernel/step.h", "a = 1\n", "a = 2\n"),
        ("lab/train.py", "a = 1  # a remark\n", "a = 2\n"),
        ("lab/studies/paper/claims.py", "a = 2\n", None),  # it only reads numbers
    ],
)
def test_the_hash_covers_the_code_that_decides_numbers(package, path, same, different):
    folder, digest = package
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    digests = []
    for text in filter(None, ("a = 1\n", same, different)):
        file.write_text(text)
        digests.append(digest())
    assert len(set(digests)) == (1 if different is None else 2)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", [name for name in caching.CODE if "*" not in name])
def test_the_files_of_the_hash_exist(name):
    assert (caching._PACKAGE / name).is_file()
