"""The shell of all pages: templates, and how they write numbers."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote

import jinja2
import markupsafe
import numpy as np

from ms_adam.atomic_write import atomic_write
from ms_adam.lab.claims import short
from ms_adam.lab.run.results import markdown

_FOLDER = Path(__file__).parent
_LINKS = re.compile('<nav id="studies">.*?</nav>')
_TITLE = re.compile("<title>(?:ms_adam: )?(.*?)</title>")


def read_results(folder: Path, name: str = "results.json") -> dict[str, Any]:
    """Reads what a study wrote."""
    return json.loads((folder / name).read_text(encoding="utf-8"))


def write_page(folder: Path, name: str, **values: Any) -> Path:
    """Writes ``index.html``, one file that needs no other file and no network; returns its path.

    The name is that of the template in ``studies``, of whose variables ``environment`` is one.
    """
    page = template(name).render(values)
    with atomic_write(folder) as writing:  # another study may be linking its neighbours
        (writing / "index.html").write_text(page, encoding="utf-8")
    link_pages(folder)
    return folder / "index.html"


def link_pages(folder: Path) -> None:
    """Links the pages of the studies that stand beside a folder, and its own, to each other.

    Earlier pages are written again: they do not know of a study that ran after them.
    """
    found = sorted(folder.resolve().parent.glob("*/index.html"))
    ours = [path for path in found if os.access(path, os.R_OK) and os.access(path.parent, os.W_OK)]
    # Among them may be pages of others, in another encoding.
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in ours}
    pages = {path: text for path, text in texts.items() if _LINKS.search(text)}
    links = {
        path: f'<a href="../{quote(path.parent.name)}/index.html">{_TITLE.search(text)[1]}</a>'
        for path, text in pages.items()
    }
    for path, text in pages.items():
        others = " · ".join(link for other, link in links.items() if other != path)
        words = f"Other studies: {others}" if others else ""
        linked = _LINKS.sub(lambda _, words=words: f'<nav id="studies">{words}</nav>', text, 1)
        if linked != text:
            with atomic_write(path.parent) as writing:
                (writing / path.name).write_text(linked, encoding="utf-8")


def write_claims_page(
    folder: Path, name: str, blocks: Callable[[dict, list[dict]], dict[str, Any]], **values: Any
) -> Path:
    """Writes the page of a study with claims on seeded trainings; see claims.html.j2.

    Args:
        folder: Holds ``results.json`` and, for each experiment, a folder of ``.npz`` files.
        name: The template in ``studies``.
        blocks: Takes an entry and the arrays of each of its runs; returns what the template shows
            besides the entry.
        values: More variables of the template.
    """
    content = read_results(folder)
    entries = []
    for entry in content["results"]:
        arrays = []
        for row in entry["runs"]:
            with np.load(folder / entry["experiment"] / row["file"]) as of_run:
                arrays.append(dict(of_run.items()))
        entries.append({**entry, **blocks(entry, arrays)})
    return write_page(folder, name, environment=content["environment"], entries=entries, **values)


def template(name: str) -> jinja2.Template:
    """Loads a template of HTML or Markdown, with the filters of this module."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_FOLDER, _FOLDER / "studies"]),
        autoescape=name.endswith(".html.j2"),  # Markdown is not HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        unbroken=unbroken, data_uri=data_uri, inline=inline, percent=percent, thousands=thousands
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.globals["markdown"] = markdown
    if environment.autoescape:
        environment.globals["blocks"] = environment.get_template("blocks.html.j2").module
    return environment.get_template(name)


def data_uri(png: bytes) -> str:
    """Returns a PNG as the source of an image."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def power(value: Any) -> str:
    """Formats a small number with two digits: 2.1e-6."""
    return "0" if value == 0 else short(float(value))


def percent(value: Any) -> str:
    """Formats a share: 92.34%."""
    return f"{100 * float(value):.2f}%"


def fixed(digits: int) -> Callable[[Any], str]:
    """Returns a format with this many decimal places."""
    return lambda value: f"{float(value):.{digits}f}"  # float("nan") is NaN


def thousands(value: int) -> str:
    """Formats a count: 109,386."""
    return f"{value:,}"


def unbroken(text: Any) -> str:
    """Keeps 2.1e-6 on one line: browsers break after a hyphen, but not after U+2011."""
    return re.sub(r"(?<=\de)-(?=\d)", "\u2011", str(text))


def inline(text: Any) -> markupsafe.Markup:
    """Renders the text of a table's cell as HTML: ``**bold**``, ```code``` and line breaks."""
    html = str(markupsafe.escape(text)).replace("\n", "<br>")
    html = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html)
    return markupsafe.Markup(re.sub("`(.+?)`", r"<code>\1</code>", html))
