"""The content of `bench.json` as rows of text."""

from __future__ import annotations

from typing import NamedTuple

from ms_adam.lab.bench import contenders as of
from ms_adam.lab.bench.cases import TAIL
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
    contender: str
    to: str
    limits: tuple[float, ...] = ()  # of a tail and of narrow state, in the cases of `cases.TAIL`
    key: str = "step_ms"


RATIOS = (
    Ratio("default state to nn.Adam", of.FUSED, of.NN_ADAM),
    Ratio("flat state to nn.Adam", of.FLAT, of.NN_ADAM),
    Ratio("flat state to torch fused", of.FLAT, of.TORCH),
    Ratio("flat state to the memory limit", of.FLAT, of.LIMIT),
    Ratio("AdamW to nn.AdamWeightDecay", of.OUR_ADAMW, of.NN_ADAMW),
    Ratio("bfloat16 to float32", of.FUSED_BF16, of.FUSED),
    Ratio("composite, flat state to single", of.FLAT_COMPOSITE, of.COMPOSITE),
    Ratio("compile time, default state to nn.Adam", of.FUSED, of.NN_ADAM, key="compile_s"),
    Ratio("compile time, flat state to nn.Adam", of.FLAT, of.NN_ADAM, key="compile_s"),
    Ratio("compile time, the same of composite", of.FLAT_COMPOSITE, of.COMPOSITE, key="compile_s"),
    Ratio("the memory limit to nn.Adam", of.LIMIT, of.NN_ADAM),
    Ratio("lazy to dense", of.LAZY, of.FUSED),
    Ratio("lazy to nn.Adam(use_lazy=True)", of.LAZY, of.NN_LAZY),
    Ratio("called in PyNative, to nn.Adam", of.CALLED, of.NN_CALLED),
    Ratio("called in graph mode, to nn.Adam", of.CALLED_GRAPH, of.NN_CALLED_GRAPH),
    Ratio("called in PyNative, to torch fused", of.CALLED, of.TORCH),
    Ratio("called in graph mode, to torch fused", of.CALLED_GRAPH, of.TORCH),
    Ratio("first call in PyNative, to nn.Adam", of.CALLED, of.NN_CALLED, key="first_s"),
    Ratio("whole tail and EMA to MindSpore's", of.TAIL_EMA, of.NN_TAIL_EMA, (0.07, 0.15)),
    Ratio("whole tail to MindSpore's", of.TAIL, of.NN_TAIL, (0.08, 0.15)),
    # The norm reads the gradients anyway.
    Ratio("finite check added to clipping", of.CLIPPED_FINITE, of.CLIPPED, (1.03, 1.03)),
    # 36 bytes an element in place of 28.
    Ratio("EMA added to a plain step", of.FUSED_EMA, of.FUSED, (1.35, 1.33)),
    # 12 bytes in place of 28.
    Ratio("an accumulating call to a plain step", of.ACCUMULATING, of.FUSED, (0.60, 0.48)),
    Ratio("the same, called from Python", of.ACCUMULATING_CALLED, of.CALLED, (0.60, 0.48)),
    Ratio(
        "compile time, whole tail and EMA to MindSpore's",
        of.TAIL_EMA,
        of.NN_TAIL_EMA,
        (0.10, 0.15),
        "compile_s",
    ),
    Ratio(
        "compile time, whole tail to MindSpore's", of.TAIL, of.NN_TAIL, (0.10, 0.15), "compile_s"
    ),
    Ratio(
        "first step, whole tail and EMA to MindSpore's", of.TAIL_EMA, of.NN_TAIL_EMA, (), "first_s"
    ),
    Ratio("whole tail and EMA to torch's", of.TAIL_EMA, of.TORCH_TAIL_EMA, (0.55, 0.55)),
    Ratio("whole tail to torch's", of.TAIL, of.TORCH_TAIL, (0.55, 0.55)),
    Ratio("whole tail and EMA to a plain step", of.TAIL_EMA, of.FUSED),
    Ratio("MindSpore's tail and EMA to nn.Adam", of.NN_TAIL_EMA, of.NN_ADAM),
    Ratio("bfloat16 state to float32", of.BF16, of.FUSED, (1.0, 0.9)),
    Ratio("int8 state to float32", of.INT8, of.FUSED, (1.0, 0.95)),
    Ratio("split to master weights", of.SPLIT, of.MASTERS, (1.0, 1.0)),
    Ratio("both to master weights", of.INT8_SPLIT, of.MASTERS),
    Ratio("called: bfloat16 state to float32", of.BF16_CALLED, of.CALLED),
    Ratio("called: int8 state to float32", of.INT8_CALLED, of.CALLED),
    Ratio("called: split to master weights", of.SPLIT_CALLED, of.MASTERS_CALLED),
    Ratio("called: both to master weights", of.INT8_SPLIT_CALLED, of.MASTERS_CALLED),
    Ratio("called: int8 state to bitsandbytes", of.INT8_CALLED, of.BITSANDBYTES, (0.2, 0.2)),
    Ratio("called: int8 state to torchao, 8 bits", of.INT8_CALLED, of.TORCHAO, (0.2, 0.2)),
    Ratio("called: int8 state to torchao, 4 bits", of.INT8_CALLED, of.TORCHAO_4),
)


# Title: what a row of `bench.json` has there; some need all rows.
_COLUMNS = {
    "contender": lambda row, _: row["contender"],
    "ms": lambda row, _: f"{row['step_ms']:.3g}",
    "10-90%": lambda row, _: f"{row['step_ms_10']:.3g}-{row['step_ms_90']:.3g}",
    "/ nn.Adam": lambda row, rows: _figure(ratio(rows, row["case"], row["contender"], of.NN_ADAM)),
    "/ limit": lambda row, rows: _figure(ratio(rows, row["case"], row["contender"], of.LIMIT)),
    "compile s": lambda row, _: f"{row['compile_s']:.2f}",
    "first s": lambda row, _: f"{row['first_s']:.2f}",
    "peak B": lambda row, _: f"{row['peak_bytes'] / row['elements']:.1f}",
    "state B": lambda row, _: f"{row['state_bytes'] / row['elements']:.1f}",
    "on": lambda row, _: row["state_on"],
    "drift": lambda row, _: f"{row['drift']:.2f}",
}
COLUMNS = tuple(_COLUMNS)


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
        if row["contender"] in of.NARROWS[2:]
    }
    rows = []
    for title, contender, to, limits, key in RATIOS:
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
