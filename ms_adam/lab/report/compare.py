"""Writes the page of ``ms-adam compare`` from ``compare.json`` and the tables beside it."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ms_adam.lab.report.html import data_uri, template
from ms_adam.lab.report.plots import STYLE, png
from ms_adam.lab.studies.compare.distances import LOSS, METRICS, Distances

# Okabe & Ito 2008: told apart with every common kind of colour blindness.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")
_QUANTITIES = {
    LOSS: ("loss", "#000000"),
    "gradient": ("gradient", "#009E73"),
    "moment1": ("first moment", "#56B4E9"),
    "moment2": ("second moment", "#CC79A7"),
    "vhat": ("largest second moment", "#E69F00"),
    "parameter": ("parameter", "#D55E00"),
}
_EQUAL_COLOUR = "#eef1f4"
_MOST_ROWS = 60  # of a heat map
_LABEL_WIDTH = 34


def write_page(out: Path) -> Path:
    """Makes the page of a finished comparison.

    Args:
        out: A folder with ``compare.json`` and what stands beside it.

    Returns:
        The path of ``index.html``, one file that needs no other and no network.
    """
    content = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    (entry,) = content["results"]
    page = template("compare.html.j2").render(
        environment=content["environment"],
        entry=entry,
        metrics=METRICS,
        quantities={name: words for name, (words, _) in _QUANTITIES.items()},
        sides_plot=data_uri(sides_plot(entry["sides"])),
        norms=_norms(out, entry["sides"]),
        pairs=[_pair(out, pair) for pair in entry["pairs"]],
    )
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _pair(out: Path, pair: dict) -> dict:
    free = Distances.load(out / pair["files"]["free"])
    replayed = Distances.load(out / pair["files"]["replayed"])
    tables = [distances.worst(q) for distances in (free, replayed) for q in distances.tables]
    if not any(table["different"].any() for table in tables):
        return {**pair, "equal": True}  # there is nothing to draw
    return {
        **pair,
        "equal": False,
        "curves": data_uri(distance_plot(free, replayed, pair["limits"])),
        "map": data_uri(heat_map(free)),
        "rows_left_out": max(0, len(free.names) - _MOST_ROWS),
        "worst": _worst_ever(free),
    }


def _worst_ever(distances: Distances) -> list[dict]:
    """For each quantity the step and tensor with the largest relative distance that is judged."""
    rows = []
    for quantity in distances.tables:
        judged = np.nan_to_num(distances.judged(quantity), nan=np.inf, posinf=np.inf)
        step, parameter = np.unravel_index(int(np.argmax(judged)), judged.shape)
        tensor = "–" if quantity == LOSS else distances.names[parameter]
        at = distances.at(quantity, step, parameter)
        rows.append({"quantity": quantity, "step": step + 1, "parameter": tensor, **at})
    return rows


def _norms(out: Path, sides: Sequence[dict]) -> dict[str, list[tuple[float, float]]]:
    """{parameter: the norm of its gradient in the first and the last step, for each side}."""
    found: dict[str, list[tuple[float, float]]] = {}
    for side in sides:
        with np.load(out / side["file"]) as arrays:
            for name, norms in zip(arrays["names"].tolist(), arrays["gradient_norm"].T):
                found.setdefault(name, []).append((float(norms[0]), float(norms[-1])))
    return found


def sides_plot(sides: Sequence[dict]) -> bytes:
    """Loss, gradient norm, learning rate and corrections of every side over the steps.

    Curves that coincide stay visible: each is drawn on the one before it, and is thinner.

    Args:
        sides: The ``sides`` of ``compare.json``.

    Returns:
        A PNG.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        axes = figure.subplots(2, 2)
        for place, side in enumerate(sides):
            x = np.arange(1, len(side["loss"]) + 1)
            look = {
                "color": _PALETTE[place % len(_PALETTE)],
                "linewidth": 1.0 + 1.1 * (len(sides) - 1 - place),
                "solid_capstyle": "round",
            }
            rate = side["learning_rate"]
            axes[0, 0].plot(x, _floats(side["loss"]), label=side["side"], **look)
            axes[0, 1].plot(x, _floats(side["gradient_norm"]), **look)
            axes[1, 0].fill_between(
                x, _floats(rate["least"]), _floats(rate["most"]), color=look["color"], alpha=0.2
            )
            axes[1, 0].plot(x, _floats(rate["most"]), **look)
            axes[1, 1].plot(x, _floats(side["c1"]), **look)
            axes[1, 1].plot(x, _floats(side["c2"]), **look, linestyle=(0, (3, 2)))
        axes[0, 0].set(title="Loss of the batch")
        axes[0, 1].set(title="Gradient norm, all parameters")
        axes[1, 0].set(title="Learning rate (band: over parameters)")
        axes[1, 0].set_ylim(0, 1.1 * axes[1, 0].get_ylim()[1])
        axes[1, 1].set(title="c1 = 1 − β1ᵗ (solid), c2 = √(1 − β2ᵗ) (dashed)", ylim=(0, 1.05))
        for axis in axes.flat:
            axis.set_xlabel("step")
        _whole_steps(axes.flat)
        figure.legend(loc="outside lower center", ncols=min(3, len(sides)), handlelength=3)
        return png(figure)


def distance_plot(free: Distances, replayed: Distances, limits: dict) -> bytes:
    """The worst judged distance of each quantity over the steps: as trained, and replayed.

    Args:
        free: Each side going its own way.
        replayed: From the same weights (loss, gradient) and the same gradients (the rest).
        limits: {quantity: the limit of each step}.

    Returns:
        A PNG.
    """
    panels = (
        ("Each side on its own way", free),
        (
            "From the same weights (loss, gradient)\nand the same gradients (moments, parameter)",
            replayed,
        ),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (title, distances) in zip(axes, panels):
            for quantity in distances.tables:
                words, colour = _QUANTITIES[quantity]
                values = distances.worst(quantity)["judged"]
                x = np.arange(1, len(values) + 1)
                shown = np.where((values > 0) & np.isfinite(values), values, np.nan)
                axis.plot(x, shown, color=colour, marker=".", markersize=4, label=words)
                limit = np.asarray(limits[quantity])
                if (limit > 0).any():
                    axis.plot(x, np.where(limit > 0, limit, np.nan), color=colour, lw=0.9, ls=":")
            axis.set(title=title, xlabel="step", yscale="log")
            axis.set_xlim(0, len(x) + 1)
        axes[0].set_ylabel("relative distance, worst tensor")
        _whole_steps(axes)
        lines, labels = axes[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncols=6, handlelength=2)
        return png(figure)


def heat_map(free: Distances) -> bytes:
    """Judged distance of every gradient and parameter in every step.

    Of more than 60 parameters, the 60 that are farthest apart are drawn.

    Returns:
        A PNG.
    """
    tables = {q: free.judged(q).T for q in ("gradient", "parameter") if q in free.tables}
    farthest = np.max([table.max(axis=1) for table in tables.values()], axis=0)
    rows = np.sort(np.argsort(-farthest, kind="stable")[:_MOST_ROWS])
    labels = [_shortened(free.names[i]) for i in rows]
    values = np.concatenate([table[rows].ravel() for table in tables.values()])
    seen = values[np.isfinite(values) & (values > 0)]
    least, most = _whole_powers(seen)
    height = 1.9 + 0.24 * len(rows)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(10, height), layout="constrained")
        axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
        colours = matplotlib.colormaps["viridis"].with_extremes(bad=_EQUAL_COLOUR, over="#a8071a")
        for axis, (quantity, table) in zip(axes, tables.items()):
            table = np.nan_to_num(table[rows], nan=np.inf, posinf=np.inf)
            steps = table.shape[1]
            image = axis.imshow(
                np.ma.masked_equal(table, 0.0),
                norm=LogNorm(least, most),
                cmap=colours,
                aspect="auto",
                interpolation="nearest",
                extent=(0.5, steps + 0.5, len(rows) - 0.5, -0.5),
            )
            axis.set(title=_QUANTITIES[quantity][0].capitalize(), xlabel="step")
        axes[0].set_yticks(range(len(rows)), labels, fontsize=8)
        _whole_steps(axes)
        bar = figure.colorbar(image, ax=list(axes), pad=0.015, extend="max")
        bar.set_label("relative distance", fontsize=9)
        return png(figure)


def _whole_powers(values: np.ndarray) -> tuple[float, float]:
    """A scale of powers of ten around values: at least one power and at most twelve."""
    if not values.size:
        return 1e-8, 1.0
    most = math.ceil(math.log10(values.max()))
    least = min(most - 1, max(most - 12, math.floor(math.log10(values.min()))))
    return 10.0 ** max(least, -30), 10.0 ** max(most, -29)  # matplotlib takes no less


def _whole_steps(axes) -> None:
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)


def _floats(values: Sequence) -> np.ndarray:
    """Numbers of a JSON file, in which NaN and infinities are words; those are not drawn."""
    array = np.array([float(value) for value in values])
    return np.where(np.isfinite(array), array, np.nan)


def _shortened(name: str) -> str:
    return (
        textwrap.shorten(name, _LABEL_WIDTH)
        if len(name) <= _LABEL_WIDTH
        else ("…" + name[1 - _LABEL_WIDTH :])
    )
