"""The content of `bench.json` as rows of text."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from ms_adam.lab.bench.cases import TAIL
from ms_adam.lab.bench.contenders import NARROWS
from ms_adam.lab.bench.runner import ratio

LEGEND = (
    "ms: median step, and from where to where 10-90% of the steps are. / nn.Adam, / limit: step "
    "for step in the same rounds. first s: the first step, its compilation included; memory is "
    "given then. peak B, state B: memory that building, compiling and stepping needed, and state "
    "kept, bytes an element; on: the device that keeps it (the host's memory is the CPU's). drift: "
    "last pass over first pass."
)


class Ratio(NamedTuple):
    """A row of the ratios: the time of a contender over that of another one."""

    title: str
    quotient: str  # the names of the two, "CONTENDER / TO"
    limits: tuple[float, ...] = ()  # of a tail and of narrow state, in the cases of `cases.TAIL`
    key: str = "step_ms"


# Arguments of `Ratio`.
RATIOS = (
    ("default state to nn.Adam", "fused / nn.Adam"),
    ("flat state to nn.Adam", "fused, flat state / nn.Adam"),
    ("flat state to torch fused", "fused, flat state / torch fused"),
    ("flat state to the memory limit", "fused, flat state / memory limit"),
    ("AdamW to nn.AdamWeightDecay", "AdamW fused / nn.AdamWeightDecay"),
    ("bfloat16 to float32", "fused, bfloat16 / fused"),
    ("composite, flat state to single", "composite, flat state / composite"),
    ("compile time, default state to nn.Adam", "fused / nn.Adam", (), "compile_s"),
    ("compile time, flat state to nn.Adam", "fused, flat state / nn.Adam", (), "compile_s"),
    ("compile time, the same of composite", "composite, flat state / composite", (), "compile_s"),
    ("the memory limit to nn.Adam", "memory limit / nn.Adam"),
    ("lazy to dense", "fused, lazy / fused"),
    ("lazy to nn.Adam(use_lazy=True)", "fused, lazy / nn.Adam, lazy"),
    ("called in PyNative, to nn.Adam", "called, PyNative / nn.Adam called, PyNative"),
    ("called in graph mode, to nn.Adam", "called, graph mode / nn.Adam called, graph mode"),
    ("called in PyNative, to torch fused", "called, PyNative / torch fused"),
    ("called in graph mode, to torch fused", "called, graph mode / torch fused"),
    (
        "first call in PyNative, to nn.Adam",
        "called, PyNative / nn.Adam called, PyNative",
        (),
        "first_s",
    ),
    ("whole tail and EMA to MindSpore's", "tail, EMA / nn.Adam, tail, EMA", (0.07, 0.15)),
    ("whole tail to MindSpore's", "tail / nn.Adam, tail", (0.08, 0.15)),
    # The norm reads the gradients anyway.
    ("finite check added to clipping", "fused, clipped, finite / fused, clipped", (1.03, 1.03)),
    # 36 bytes an element in place of 28.
    ("EMA added to a plain step", "fused, EMA / fused", (1.35, 1.33)),
    # 12 bytes in place of 28.
    ("an accumulating call to a plain step", "fused, accumulating / fused", (0.60, 0.48)),
    ("the same, called from Python", "called, accumulating / called, PyNative", (0.60, 0.48)),
    (
        "compile time, whole tail and EMA to MindSpore's",
        "tail, EMA / nn.Adam, tail, EMA",
        (0.10, 0.15),
        "compile_s",
    ),
    ("compile time, whole tail to MindSpore's", "tail / nn.Adam, tail", (0.10, 0.15), "compile_s"),
    (
        "first step, whole tail and EMA to MindSpore's",
        "tail, EMA / nn.Adam, tail, EMA",
        (),
        "first_s",
    ),
    ("whole tail and EMA to torch's", "tail, EMA / torch, tail, EMA", (0.55, 0.55)),
    ("whole tail to torch's", "tail / torch, tail", (0.55, 0.55)),
    ("whole tail and EMA to a plain step", "tail, EMA / fused"),
    ("MindSpore's tail and EMA to nn.Adam", "nn.Adam, tail, EMA / nn.Adam"),
    ("bfloat16 state to float32", "bfloat16 state / fused", (1.0, 0.9)),
    ("int8 state to float32", "int8 state / fused", (1.0, 0.95)),
    ("split to master weights", "split / master weights", (1.0, 1.0)),
    ("both to master weights", "int8 state, split / master weights"),
    ("called: bfloat16 state to float32", "bfloat16 state, called / called, PyNative"),
    ("called: int8 state to float32", "int8 state, called / called, PyNative"),
    ("called: split to master weights", "split, called / master weights, called"),
    ("called: both to master weights", "int8 state, split, called / master weights, called"),
    ("called: int8 state to bitsandbytes", "int8 state, called / bitsandbytes, 8 bits", (0.2, 0.2)),
    ("called: int8 state to torchao, 8 bits", "int8 state, called / torchao, 8 bits", (0.2, 0.2)),
    ("called: int8 state to torchao, 4 bits", "int8 state, called / torchao, 4 bits"),
)


# Title: what a row of `bench.json` has there; some need all rows.
_COLUMNS = {
    "contender": lambda row, _: row["contender"],
    "ms": lambda row, _: f"{row['step_ms']:.3g}",
    "10-90%": lambda row, _: f"{row['step_ms_10']:.3g}-{row['step_ms_90']:.3g}",
    "/ nn.Adam": lambda row, rows: _beside(row, rows, "nn.Adam"),
    "/ limit": lambda row, rows: _beside(row, rows, "memory limit"),
    "compile s": lambda row, _: f"{row['compile_s']:.2f}",
    "first s": lambda row, _: f"{row['first_s']:.2f}",
    "peak B": lambda row, _: f"{row['peak_bytes'] / row['elements']:.1f}",
    "state B": lambda row, _: f"{row['state_bytes'] / row['elements']:.1f}",
    "on": lambda row, _: row["state_on"],
    "drift": lambda row, _: f"{row['drift']:.2f}",
}
COLUMNS = tuple(_COLUMNS)


def _beside(row, rows, to):
    return _figure(ratio(rows, row["case"], row["contender"], to))


def case_rows(results: list[dict], case: str) -> list[tuple[str, ...]]:
    """One row of `COLUMNS` for each contender of a case, the quickest first."""
    rows = sorted((row for row in results if row["case"] == case), key=lambda row: row["step_ms"])
    return [tuple(cell(row, results) for cell in _COLUMNS.values()) for row in rows]


def ratio_rows(results: list[dict]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The `RATIOS`: the cases, and a row for each ratio with a figure for each case.

    A figure that has a limit is followed by it, and one of narrow state by its bytes an element.
    """
    cases = list(dict.fromkeys(row["case"] for row in results))
    state = {
        (row["case"], row["contender"]): f"; {row['state_bytes'] / row['elements']:.1f} B"
        for row in results
        if row["contender"] in NARROWS[2:]
    }
    rows = []
    for title, quotient, limits, key in itertools.starmap(Ratio, RATIOS):
        contender, to = quotient.split(" / ")
        figures = [_figure(ratio(results, case, contender, to, key)) for case in cases]
        limits = dict(zip((case.name for case in TAIL), limits))
        if any(figures):
            ends = (f" (<= {limits[case]})" if case in limits else "" for case in cases)
            beside = (state.get((case, contender), "") for case in cases)
            rows.append((title, *map("".join, zip(figures, ends, beside))))
    return cases, rows


def _figure(value) -> str:
    # A step of a few elements can be lost in what a call costs, and come out negative.
    if value is None or value <= 0.0:
        return ""
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"
