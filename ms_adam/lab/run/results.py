"""What runs write: JSON with the same outermost keys in every file, and tables in Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from ms_adam.atomic_write import atomic_write
from ms_adam.lab.run.environment import environment

SCHEMA = 1


def results(entries: list[Any], device_targets: Iterable[Optional[str]] = ()) -> dict[str, Any]:
    """Returns the content of a results file: ``schema``, ``environment`` and ``results``.

    Numbers in the entries that are not finite become words, see `plain`. The targets are what
    MindSpore computed on in each run, if it did.
    """
    targets = ", ".join(sorted({target for target in device_targets if target})) or None
    return plain({"schema": SCHEMA, "environment": environment(targets), "results": entries})


def write_json(path: Path, content: Any) -> None:
    """Writes a file that is complete or not there at all; makes its folder.

    Raises:
        ValueError: A number is not finite; `plain` makes words of such numbers.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_write(path.parent) as writing:
        (writing / path.name).write_text(text, encoding="utf-8")


def plain(value: Any, instead: Callable[[float], Any] = str) -> Any:
    """Replaces NaN and infinities, which JSON lacks, by default by "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return instead(value)
    if isinstance(value, dict):
        return {key: plain(item, instead) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, instead) for item in value]
    return value


def markdown(
    head: Sequence[Any], rows: Iterable[Sequence[Any]], rules: Optional[Sequence[str]] = None
) -> str:
    """Writes a table in Markdown; a bar or line break in a cell ends neither cell nor row.

    Args:
        head: The title of each column.
        rows: The cells of each row.
        rules: What stands below each title: "---", or "---:" to align a column to the right.
    """
    lines = [head, rules or ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", "<br>")
