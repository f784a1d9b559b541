"""The cost of data-parallel training: the model beside the measurements, as tables and a plot."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from ms_adam.lab.report import plots
from ms_adam.lab.report.html import fixed, thousands
from ms_adam.lab.report.tables import Column, rendered, table
from ms_adam.lab.studies.ranks import cost

# Seconds for a byte of the update on this machine, from `ms-adam bench`: the memory limit of 25
# million parameters is 14.7 ms for 28 bytes each.
MEMORY_BYTE = 14.7e-3 / (cost.UPDATE_BYTES * 25e6)


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
DEVICE, DEVICE_MEMORY_BYTE = cost.Wire(hop=20e-6, byte=1 / 25e9), 1e-12


def measured(entry: dict, cores: int) -> list[dict]:
    """Returns for each compiled training the measured numbers beside those of the model."""
    wire = cost.wire_from(entry["messages"], cores)
    trainings = [row for row in entry["trainings"] if row["mode"] == "graph" and row["step_ms"]]
    alone = {
        (row["problem"], row["optimizer"]): row["step_ms"] / 1e3
        for row in trainings
        if row["workers"] == 1
    }
    rows = []
    for row in trainings:
        numbers, workers, sharded = row["parameters"], row["workers"], row["state"] == "sharded"
        update = cost.UPDATE_BYTES * MEMORY_BYTE * numbers
        gradients = alone[row["problem"], row["optimizer"]] - update
        model = cost.step_seconds(wire, gradients, MEMORY_BYTE, row["sizes"], workers, sharded)
        beside = {
            "state_bytes": max(row["state_bytes"]),
            "model_ms": 1e3 * model,
            "model_state_bytes": cost.state_bytes(numbers, workers, sharded),
        }
        rows.append({**row, **beside})
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

    def pair(title: str, function: Callable, unit: float) -> list[Column]:
        """Returns the columns of whole and of sharded state."""
        return [
            Column(heading, lambda row, sharded=sharded: f"{function(*row, sharded) * unit:.3g}")
            for heading, sharded in ((title, False), ("sharded", True))
        ]

    def update(model: Model, ranks: int, sharded: bool) -> float:
        sizes = [model.parameters // model.tensors] * model.tensors
        return cost.step_seconds(DEVICE, 0.0, DEVICE_MEMORY_BYTE, sizes, ranks, sharded)

    there = (
        Column("network", lambda row: row[0].name),
        Column("N", lambda row: row[1], thousands),
        *pair("state, GB", lambda model, *of: cost.state_bytes(model.parameters, *of), 1e-9),
        *pair("sent a step, GB", lambda model, *of: cost.sent_bytes(model.parameters, *of), 1e-9),
        *pair("update and messages, ms", update, 1e3),
    )
    both = (table(here, measured(entry, cores)), table(there, itertools.product(MODELS, RANKS)))
    return "\n\n".join(map(rendered, both)) + "\n"


@plots.picture
def draw(entry: dict, cores: int) -> Figure:
    """Draws a rank's state and a step's time against the number of workers."""
    rows = measured(entry, cores)
    figure, (axes,) = plots.panels(1, 2, (8.0, 3.4))
    for state, colour, marker in (("whole", plots.VERMILION, "s"), ("sharded", plots.BLUE, "o")):
        # One worker has all of the sharded state.
        own = [row for row in rows if row["workers"] == 1 and state == "sharded"]
        own += [row for row in rows if row["state"] == state]
        workers = [row["workers"] for row in own]
        model = {"color": colour, "label": f"{state}, model", "linewidth": 1.2, "linestyle": "--"}
        point = {"color": colour, "label": f"{state}, measured", "linestyle": "none"}
        for axis, here, there, unit in (
            (axes[0], "state_bytes", "model_state_bytes", 1e6),
            (axes[1], "step_ms", "model_ms", 1.0),
        ):
            axis.plot(workers, [row[there] / unit for row in own], **model)
            axis.plot(workers, [row[here] / unit for row in own], marker=marker, **point)
    for axis, words in zip(axes, ("a rank's state, MB", "a step, ms")):
        on = "two cores" if cores == 2 else f"{cores} cores"
        ticks = sorted({row["workers"] for row in rows})
        axis.set(xlabel=f"workers on {on}", ylabel=words, xticks=ticks, ylim=(0, None))
    plots.legend_below(figure, ncols=4, fontsize=9)
    return figure
