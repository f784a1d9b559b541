"""The cost of data-parallel training: the model beside the measurements, as tables and a plot."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from ms_adam.lab.report import plots
from ms_adam.lab.report.html import fixed, thousands
from ms_adam.lab.report.plots import legend_below, panels, picture
from ms_adam.lab.report.tables import Column, rendered, table
from ms_adam.lab.studies.ranks.cost import (
    UPDATE_BYTES,
    Wire,
    sent_bytes,
    state_bytes,
    step_seconds,
    wire_from,
)

# Seconds for a byte of the update on this machine, from `ms-adam bench`: the memory limit of 25
# million parameters is 14.7 ms for 28 bytes each.
MEMORY_BYTE = 14.7e-3 / (UPDATE_BYTES * 25e6)


class Model(NamedTuple):
    """A well-known network."""

    name: str
    parameters: int
    tensors: int


MODELS = (
    Model("ResNet-50", 25_557_032, 161),
    Model("BERT-base", 109_482_240, 199),
    Model("7 billion", 7_000_000_000, 291),
)
RANKS = (8, 16, 64, 256, 1024)
# Assumed of each device: 25 GB/s to the next one, 20 us a hop, 1 TB/s of memory.
DEVICE, DEVICE_MEMORY_BYTE = Wire(hop=20e-6, byte=1 / 25e9), 1e-12


def measured(entry: dict, cores: int) -> list[dict]:
    """Returns for each training the measured numbers beside those of the model.

    Args:
        entry: Of ``results.json`` of the study of ranks.
        cores: Of the machine.
    """
    wire = wire_from(entry["messages"], cores)
    alone = {row["problem"]: row for row in entry["trainings"] if row["workers"] == 1}
    rows = []
    for row in entry["trainings"]:
        if row["step_ms"] is None or row["mode"] != "graph":
            continue
        update = UPDATE_BYTES * MEMORY_BYTE * row["parameters"]
        gradients = alone[row["problem"]]["step_ms"] / 1e3 - update
        sharded = row["state"] == "sharded"
        model = step_seconds(wire, gradients, MEMORY_BYTE, row["sizes"], row["workers"], sharded)
        same = ("problem", "workers", "state", "parameters", "step_ms")
        rows.append(
            {
                **{key: row[key] for key in same},
                "model_ms": 1e3 * model,
                "state_bytes": max(row["state_bytes"]),
                "model_state_bytes": state_bytes(row["parameters"], row["workers"], sharded),
            }
        )
    return rows


def tables(entry: dict, cores: int) -> str:
    """Returns Markdown: the measurements here, and the model for many devices."""

    def megabytes(value: float) -> str:
        return f"{value / 1e6:.2f}"

    here = (
        Column("parameters", "parameters", thousands),
        Column("workers", "workers"),
        Column("state", "state"),
        Column("a rank's state, MB", "state_bytes", megabytes),
        Column("model", "model_state_bytes", megabytes),
        Column("step, ms", "step_ms", fixed(1)),
        Column("model", "model_ms", fixed(1)),
    )

    def of_devices(title: str, function: Callable, unit: float) -> list[Column]:
        def column(heading: str, sharded: bool) -> Column:
            return Column(heading, lambda row: f"{function(*row, sharded) * unit:.3g}")

        return [column(title, False), column("sharded", True)]

    def update(model: Model, ranks: int, sharded: bool) -> float:
        sizes = [model.parameters // model.tensors] * model.tensors
        return step_seconds(DEVICE, 0.0, DEVICE_MEMORY_BYTE, sizes, ranks, sharded)

    there = (
        Column("network", lambda row: row[0].name),
        Column("N", lambda row: row[1], thousands),
        *of_devices("state, GB", lambda model, *of: state_bytes(model.parameters, *of), 1e-9),
        *of_devices("sent a step, GB", lambda model, *of: sent_bytes(model.parameters, *of), 1e-9),
        *of_devices("update and messages, ms", update, 1e3),
    )
    rows = [(model, ranks) for model in MODELS for ranks in RANKS]
    both = (table(here, measured(entry, cores)), table(there, rows))
    return "\n\n".join(map(rendered, both)) + "\n"


@picture
def draw(entry: dict, cores: int) -> Figure:
    """Draws a rank's state and a step's time against the number of workers."""
    rows = measured(entry, cores)
    figure, (axes,) = panels(1, 2, (8.0, 3.4))
    for state, colour, marker in (("whole", plots.VERMILION, "s"), ("sharded", plots.BLUE, "o")):
        own = [row for row in rows if row["state"] == state]
        if state == "sharded":  # one worker has all of it
            own = [row for row in rows if row["workers"] == 1] + own
        workers = [row["workers"] for row in own]
        for axis, key, model, unit in (
            (axes[0], "state_bytes", "model_state_bytes", 1e6),
            (axes[1], "step_ms", "model_ms", 1.0),
        ):
            for name, label, look in (
                (model, "model", {"linewidth": 1.2, "linestyle": "--"}),
                (key, "measured", {"linestyle": "none", "marker": marker}),
            ):
                numbers = [row[name] / unit for row in own]
                axis.plot(workers, numbers, color=colour, label=f"{state}, {label}", **look)
    for axis, words in zip(axes, ("a rank's state, MB", "a step, ms")):
        on = "two cores" if cores == 2 else f"{cores} cores"
        ticks = sorted({row["workers"] for row in rows})
        axis.set(xlabel=f"workers on {on}", ylabel=words, xticks=ticks, ylim=(0, None))
    legend_below(figure, ncols=4, fontsize=9)
    return figure
