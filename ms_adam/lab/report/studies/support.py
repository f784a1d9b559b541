"""The table of supported dtypes by case and backend, as Markdown, from validate.json."""

from __future__ import annotations

from ms_adam.lab.report.tables import grouped
from ms_adam.lab.run.results import markdown
from ms_adam.lab.studies.matrix.cell_worker import (
    FELL_SHORT,
    HELD,
    NN_ADAM,
    NN_ADAM_CANNOT,
    NN_ADAM_DIFFERS,
    NOT_AVAILABLE,
    NOT_OFFERED,
    REFERENCE,
)

_SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}


def support_table(results: list[dict]) -> str:
    """Returns Markdown: a row for each case, a column for each backend and one for `nn.Adam`.

    A column names the dtypes that held in every mode that was run.
    """
    backends = list(dict.fromkeys(result["backend"] for result in results))
    rows = []
    for case, own in grouped(results, "case").items():
        against = grouped(own, "against")
        of_backend = grouped(against.get(REFERENCE, []), "backend")
        columns = [*(of_backend.get(name, []) for name in backends), against.get(NN_ADAM, [])]
        rows.append([case, *map(_entry, columns)])
    return markdown(["", *backends, NN_ADAM], rows)


def _entry(results: list[dict]) -> str:
    """Returns the dtypes by status; the worst of a dtype's results is its status."""
    worst_first = (FELL_SHORT, NN_ADAM_DIFFERS, NN_ADAM_CANNOT, NOT_AVAILABLE, NOT_OFFERED, HELD)
    by_status: dict[str, list[str]] = {}
    dtypes = grouped(results, "dtype")
    for dtype, own in dtypes.items():
        status = min((result["status"] for result in own), key=worst_first.index)
        by_status.setdefault(status, []).append(_SHORT[dtype])
    words = {HELD: "", NN_ADAM_DIFFERS: "differs: ", FELL_SHORT: "**fell short**: "}
    parts = [
        words[status] + ("all" if len(names) == len(dtypes) == len(_SHORT) else " ".join(names))
        for status, names in sorted(by_status.items(), key=lambda item: -len(item[0]))
        if status in words
    ]
    missing = by_status.get(NOT_AVAILABLE, [])
    if missing:
        names = "" if len(missing) == len(dtypes) else f": {' '.join(missing)}"
        parts.append(f"not available here{names}")
    return "; ".join(parts) or "-"
