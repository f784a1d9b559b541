"""IDX files for tests: small images that a network can learn in a few steps."""

import gzip
import struct

import numpy as np


def idx_bytes(array):
    header = struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_part(folder, part, count, seed=0, zipped=False):
    """Writes `count` noisy 6 x 6 images of four classes: each lights up another quarter."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = random.integers(0, 100, (count, 6, 6))
    for image, label in zip(images, labels):
        row, column = 3 * (label // 2), 3 * (label % 2)
        image[row : row + 3, column : column + 3] += 120
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx_bytes(array)
        if zipped:
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
        else:
            (folder / f"{part}-{name}-ubyte").write_bytes(content)
    return images.reshape(count, -1), labels
