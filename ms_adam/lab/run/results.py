"""What runs write for others to read: JSON, the same outermost keys in every file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

SCHEMA = 1


def write_json(path: Path, content: dict) -> None:
    """Writes a file; a number that is not finite is an error here, `plain` makes words of them."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become the words "nan", "inf" and "-inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
