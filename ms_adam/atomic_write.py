"""Writes files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(folder: Path) -> Iterator[Path]:
    """Yields a folder to write in, and moves its files to `folder` at the end.

    Files of the same names are replaced, others stay. After an error or Ctrl-C nothing has changed,
    except that `folder` exists.

    Example:
        >>> with atomic_write(Path("runs")) as writing:  # doctest: +SKIP
        ...     (writing / "a.txt").write_text("whole")
    """
    folder.mkdir(parents=True, exist_ok=True)
    # In the folder, and so on its file system: a file is moved there by one rename.
    writing = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        yield writing
        for path in sorted(writing.iterdir()):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(writing)
