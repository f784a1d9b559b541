"""Writes ``index.html`` from ``results.json`` and the arrays beside it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, Optional

import jinja2
import markupsafe
import numpy as np

from ms_adam.lab.claims import short
from ms_adam.lab.report import text
from ms_adam.lab.report.plots import PLOTS


def write_report(out: Path) -> Path:
    """Makes the page of a finished run.

    Args:
        out: A folder with ``results.json`` and, for each experiment, a folder of ``.npz`` files.

    Returns:
        The path of ``index.html``, one file that needs no other and no network.
    """
    content = json.loads((out / "results.json").read_text(encoding="utf-8"))
    page = template("report.html.j2").render(
        environment=content["environment"],
        experiments=[_section(out, entry) for entry in content["results"]],
    )
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _section(out: Path, entry: dict) -> dict:
    folder = out / entry["experiment"]
    runs, arrays = entry["runs"], [_read(folder / row["file"]) for row in entry["runs"]]
    kind = "sparse_text" if entry["config"].get("study") == "text" else "images"
    if kind == "sparse_text":
        own = {"data_name": "bags of words", "data_sha256": entry["bags_sha256"]}
        plots, table = text.PLOTS, text.table(entry, arrays)
    else:
        own = {"data_name": "images", "data_sha256": entry["images_sha256"]}
        plots, table = PLOTS, _table(runs)
    return {
        **entry,
        **own,
        "part": f"report_{kind}.html.j2",
        "plots": {name: data_uri(draw(runs, arrays)) for name, draw in plots.items()},
        "table": table,
        "labels": list(dict.fromkeys(row["label"] for row in runs)),
        "distance": {(pair["a"], pair["b"]): pair["distance"] for pair in entry["pairs"]},
        "minutes": sum(row["seconds"] for row in runs) / 60,
    }


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays.items())


def _table(runs: list[dict]) -> list[dict]:
    """One line for each optimizer and mode, over its seeds."""
    groups: dict[str, list[dict]] = {}
    for row in runs:
        groups.setdefault(row["label"], []).append(row)
    return [
        {
            "label": label,
            "backend": rows[0]["backend"],
            "final_loss": _mean(rows, "final_loss"),
            "train_accuracy": _mean(rows, "train_accuracy"),
            "test_accuracy": _mean(rows, "test_accuracy"),
            "least": _extreme(min, rows, "test_accuracy"),
            "most": _extreme(max, rows, "test_accuracy"),
            "error_algorithm1": _extreme(max, rows, "error_algorithm1"),
            "error_epsilon_hat": _extreme(max, rows, "error_epsilon_hat"),
            "rounding_bound": _extreme(max, rows, "rounding_bound"),
        }
        for label, rows in groups.items()
    ]


def _values(rows: list[dict], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row[name] is not None]  # float("nan") is NaN


def _mean(rows: list[dict], name: str) -> Optional[float]:
    values = _values(rows, name)
    return sum(values) / len(values) if values else None


def _extreme(which, rows: list[dict], name: str) -> Optional[float]:
    values = _values(rows, name)
    return float(which(np.array(values))) if values else None


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def template(name: str) -> jinja2.Template:
    """A page of this folder, HTML or Markdown, with the filters below."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    surroundings = jinja2.Environment(
        loader=loader,
        autoescape=name.endswith(".html.j2"),  # and not in Markdown
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    surroundings.filters["power"] = power
    surroundings.filters["percent"] = percent
    surroundings.filters["unbroken"] = unbroken
    surroundings.filters["wrapped"] = wrapped
    return surroundings.get_template(name)


def power(value: Any) -> str:
    """A small number in two digits; an absent one is a dash."""
    if value is None:
        return "–"
    return "0" if value == 0 else short(float(value))


def percent(value: Any) -> str:
    return "–" if value is None else f"{100 * float(value):.2f}%"


def unbroken(text: str) -> str:
    """Keeps 2.1e-6 on one line: a browser may break after a common hyphen, but not after U+2011."""
    return re.sub(r"(?<=\de)-(?=\d)", "\u2011", text)


def wrapped(label: str) -> markupsafe.Markup:
    """The mode of a run below its optimizer."""
    return markupsafe.Markup(",<br>").join(label.split(", "))
