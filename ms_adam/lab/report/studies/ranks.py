"""What data-parallel training costs: the model beside what was measured, as tables and a plot."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from ms_adam.lab.report.plots import STYLE, png
from ms_adam.lab.studies.ranks.cost import (
    UPDATE_BYTES,
    Wire,
    sent_bytes,
    state_bytes,
    step_seconds,
    wire_from,
)

# A byte of the update on this machine's memory, from `ms-adam bench`: the memory limit of 25 million
# parameters is 14.7 ms for 28 bytes each.
MEMORY_BYTE = 14.7e-3 / (UPDATE_BYTES * 25e6)


class Model(NamedTuple):
    """A network that is known to many."""

    name: str
    parameters: int
    tensors: int


MODELS = (
    Model("ResNet-50", 25_557_032, 161),
    Model("BERT-base", 109_482_240, 199),
    Model("7 billion", 7_000_000_000, 291),
)
RANKS = (8, 16, 64, 256, 1024)
# What is assumed of each device: 25 GB/s to the next one, 20 us a hop, 1 TB/s of memory.
DEVICE, DEVICE_MEMORY_BYTE = Wire(hop=20e-6, byte=1 / 25e9), 1e-12


def measured(entry: dict, cores: int) -> list[dict]:
    """Of each training, what was measured and what the model says.

    Args:
        entry: Of ``results.json`` of `ms_adam.lab.studies.ranks.runner`.
        cores: Of the machine.
    """
    wire = wire_from(entry["messages"], cores)
    alone = {row["problem"]: row for row in entry["trainings"] if row["workers"] == 1}
    rows = []
    for row in entry["trainings"]:
        if row["step_ms"] is None or row["mode"] != "graph":
            continue
        one = alone[row["problem"]]
        gradients = one["step_ms"] / 1e3 - UPDATE_BYTES * MEMORY_BYTE * row["parameters"]
        sharded = row["state"] == "sharded"
        rows.append(
            {
                **{
                    key: row[key]
                    for key in ("problem", "workers", "state", "parameters", "step_ms")
                },
                "model_ms": 1e3
                * step_seconds(wire, gradients, MEMORY_BYTE, row["sizes"], row["workers"], sharded),
                "state_bytes": max(row["state_bytes"]),
                "model_state_bytes": state_bytes(row["parameters"], row["workers"], sharded),
            }
        )
    return rows


def tables(entry: dict, cores: int) -> str:
    """Markdown: what was measured here, and what the model says of many devices."""
    lines = [
        "| parameters | workers | state | a rank's state, MB | model | step, ms | model |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['parameters']:,} | {row['workers']} | {row['state']} | "
        f"{row['state_bytes'] / 1e6:.2f} | {row['model_state_bytes'] / 1e6:.2f} | "
        f"{row['step_ms']:.1f} | {row['model_ms']:.1f} |"
        for row in measured(entry, cores)
    ]
    lines += [
        "",
        "| network | N | state, GB | sharded | sent a step, GB | sharded | update and "
        "messages, ms | sharded |",
        "| --- |" + " --- |" * 7,
    ]
    for model in MODELS:
        sizes = [model.parameters // model.tensors] * model.tensors
        for ranks in RANKS:
            cells = [
                f"{function(model.parameters, ranks, sharded) / 1e9:.3g}"
                for function in (state_bytes, sent_bytes)
                for sharded in (False, True)
            ]
            cells += [
                f"{1e3 * step_seconds(DEVICE, 0.0, DEVICE_MEMORY_BYTE, sizes, ranks, sharded):.3g}"
                for sharded in (False, True)
            ]
            lines.append(f"| {model.name} | {ranks:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(entry: dict, cores: int) -> bytes:
    """A rank's state and a step's time against the number of workers."""
    rows = measured(entry, cores)
    workers = sorted({row["workers"] for row in rows})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.4), layout="constrained")
        state_axis, step_axis = figure.subplots(1, 2)
        for state, colour, marker in (("whole", "#D55E00", "s"), ("sharded", "#0072B2", "o")):
            of_state = [
                row
                for row in rows
                if row["state"] == state or (state == "sharded" and row["workers"] == 1)
            ]
            for axis, key, model, unit in (
                (state_axis, "state_bytes", "model_state_bytes", 1e6),
                (step_axis, "step_ms", "model_ms", 1.0),
            ):
                axis.plot(
                    [row["workers"] for row in of_state],
                    [row[model] / unit for row in of_state],
                    color=colour,
                    linewidth=1.2,
                    linestyle="--",
                    label=f"{state}, model",
                )
                axis.plot(
                    [row["workers"] for row in of_state],
                    [row[key] / unit for row in of_state],
                    color=colour,
                    linestyle="none",
                    marker=marker,
                    label=f"{state}, measured",
                )
        for axis, words in ((state_axis, "a rank's state, MB"), (step_axis, "a step, ms")):
            axis.set(
                xlabel="workers on two cores" if cores == 2 else f"workers on {cores} cores",
                ylabel=words,
                xticks=workers,
                ylim=(0, None),
            )
        handles, labels = state_axis.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
        return png(figure)
