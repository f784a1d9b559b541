"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """A folder to write in, whose files are moved to `folder` when all of them are done.

    Files of the same names are replaced, and others are left alone. After an error or Ctrl-C
    within, nothing has changed but that `folder` may have been made.

    Example:
        >>> with draft(Path("runs")) as writing:  # doctest: +SKIP
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
