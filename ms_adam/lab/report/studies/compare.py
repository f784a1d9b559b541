"""The page of ``ms-adam compare``, from ``compare.json`` and the arrays beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ms_adam.lab.report import plots
from ms_adam.lab.report.html import fixed, percent, power, read_results, thousands
from ms_adam.lab.report.html import write_page as write_html
from ms_adam.lab.report.tables import ABSENT, Column, Table, number, table
from ms_adam.lab.studies.compare.checks import BOUND, DIFFERENCE, FACTOR, Checks
from ms_adam.lab.studies.compare.distances import Distances
from ms_adam.lab.studies.compare.record import LOSS, QUANTITIES

_WORDS = {LOSS: LOSS, **QUANTITIES}
_SIX = (plots.GREEN, plots.SKY, plots.PURPLE, plots.ORANGE, plots.BLUE, plots.VERMILION)
_COLOURS = {LOSS: plots.BLACK, **dict(zip(QUANTITIES, _SIX))}
_EQUAL_COLOUR = "#eef1f4"
_MOST_ROWS = 60  # of a heat map
_LABEL_WIDTH = 34

_SIDES_NOTE = (
    "Every side ran in a process of its own, or in one for each rank. Not finite: how many numbers "
    "were NaN or infinite, over all steps: losses, and elements of gradients, moments and "
    "parameters."
)
_BOUNDS_NOTE = (
    "What came nearest to its bound on each side. Loss and gradient are compared with those of the "
    "first side's network at the same weights and on the same batch; the bound is "
    f"{FACTOR:g} times what moving all weights by one unit in the last place makes of them, and "
    f"{FACTOR:g} roundings of the tensor's largest gradient so far (of ranks: of their shares). "
    "Moments and parameters are compared with the formula in float64, from the side's own state "
    "and gradient of each step; the bound counts the roundings. A share above 1 is no rounding."
)
_WORST_NOTE = (
    "The tensor and step with the largest relative distance, each side on its own way: training "
    "carries differences on, so these are not judged. Relative: the largest difference over the "
    "largest element; for a parameter, over the largest distance that an element has moved since "
    "the first step. ULP: in units in the last place of the coarser dtype. Within: the share of "
    "elements whose difference is at most so much of their own size."
)
_PARAMETERS_NOTE = (
    "λ: the weight decay that acts on the parameter. Below it, the Euclidean norm of its gradient"
    " in the first and the last step."
)


def write_page(folder: Path) -> Path:
    """Writes the page of a finished comparison.

    Args:
        folder: Holds ``compare.json`` and the arrays that it names.

    Returns:
        The path of ``index.html``.
    """
    content = read_results(folder, "compare.json")
    (entry,) = content["results"]
    return write_html(
        folder,
        "compare.html.j2",
        environment=content["environment"],
        entry=entry,
        side_table=side_table(entry["sides"]),
        sides_plot=sides_plot(entry["sides"]),
        parameter_table=parameter_table(folder, entry),
        pairs=[_pair(folder, pair) for pair in entry["pairs"]],
    )


def _mode(side: dict) -> str:
    return side["mode"] + (f", {side['ranks']} ranks" if side["ranks"] > 1 else "")


def side_table(sides: Sequence[dict]) -> Table:
    """Returns the table of the sides."""
    columns = (
        Column("Side", "side", None, "name"),
        Column("Mode", _mode),
        Column("Optimizer", "optimizer"),
        Column("Backend", "backend"),
        Column("Parameters", lambda side: ", ".join(side["dtypes"]["parameter"])),
        number("First loss", lambda side: side["loss"][0], fixed(5)),
        number("Last loss", lambda side: side["loss"][-1], fixed(5)),
        number("Not finite", lambda side: sum(side["non_finite"].values()), thousands),
    )
    return table(columns, sides, _SIDES_NOTE)


def parameter_table(folder: Path, entry: dict) -> Table:
    """Returns the table of each parameter's weight decay and gradient norms on each side."""
    norms = [_norms(folder / side["file"]) for side in entry["sides"]]

    def on_side(place: int):
        def words(row: tuple[int, dict]) -> str:
            decay = entry["sides"][place]["weight_decay"][row[0]]
            least, most = (power(decay[name]) for name in ("least", "most"))
            first, last = map(power, norms[place][row[1]["name"]])
            return f"λ {least}{f' to {most}' if most != least else ''}\n{first} → {last}"

        return words

    columns = [
        Column("Parameter", lambda row: row[1]["name"], None, "long"),
        Column(
            "Shape", lambda row: " × ".join(map(str, row[1]["shape"])) or "scalar", None, "name"
        ),
        *(number(side["side"], on_side(place)) for place, side in enumerate(entry["sides"])),
    ]
    return table(columns, enumerate(entry["parameters"]), _PARAMETERS_NOTE)


def _norms(path: Path) -> dict[str, tuple[float, float]]:
    """Returns the norm of each parameter's gradient in the first and the last step."""
    with np.load(path) as arrays:
        norms = arrays["gradient_norm"]
        return dict(zip(arrays["names"].tolist(), zip(norms[0], norms[-1])))


def _pair(folder: Path, pair: dict) -> dict:
    free = Distances.load(folder / pair["files"]["free"])
    checks = [Checks.load(folder / name) for name in pair["files"]["checks"]]
    found = {**pair, "equal": free.equal, "bounds": bounds_table(pair["sides"], checks)}
    if free.equal:
        return found  # there is nothing to draw
    return {
        **found,
        "curves": distance_plot(free, checks),
        "map": heat_map(checks[1]),
        "rows_left_out": max(0, len(free.names) - _MOST_ROWS),
        "worst": worst_table(free),
    }


def bounds_table(sides: Sequence[str], checks: Sequence[Checks]) -> Table:
    """Returns for each quantity of each side the step and tensor nearest to their bound."""
    rows = []
    for side, found in zip(sides, checks):
        for quantity, table_of in found.tables.items():
            step, tensor, share = found.nearest(quantity)
            rows.append(
                {
                    **_place(found.names, quantity, step, tensor, all_equal=not share),
                    "side": side,
                    "difference": table_of[DIFFERENCE, step, tensor],
                    "bound": table_of[BOUND, step, tensor],
                    "share": share,
                }
            )
    columns = (
        Column("Side", "side", None, "name"),
        Column("Nearest to its bound", "quantity"),
        Column("Tensor", "tensor", None, "long"),
        number("Step", "step"),
        number("Difference", "difference", power),
        number("Bound", "bound", power),
        number("Share", "share", power),
    )
    return table(columns, rows, _BOUNDS_NOTE)


def _place(names: list[str], quantity: str, step: int, tensor: int, all_equal: bool) -> dict:
    """Returns the cells of a place; where all are equal no tensor and no step is the farthest."""
    name = ABSENT if quantity == LOSS else names[tensor]
    found = {"tensor": "all", "step": "all"} if all_equal else {"tensor": name, "step": step + 1}
    return {"quantity": _WORDS[quantity], **found}


def worst_table(distances: Distances) -> Table:
    """Returns for each quantity the step and tensor with the largest relative distance."""
    rows = []
    for quantity in distances.tables:
        relative = np.nan_to_num(distances.relative(quantity), nan=np.inf, posinf=np.inf)
        step, parameter = np.unravel_index(int(np.argmax(relative)), relative.shape)
        at = distances.at(quantity, step, parameter)
        place = _place(distances.names, quantity, step, parameter, all_equal=not at["relative"])
        rows.append({**at, **place})
    columns = (
        Column("Farthest apart", "quantity"),
        Column("Tensor", "tensor", None, "long"),
        number("Step", "step"),
        number("Absolute", "absolute", power),
        number("Relative", "relative", power),
        number("ULP", "ulp", power),
        number("1 − cosine", lambda row: 1 - row["cosine"], power),
        number("Within 0.1%", "within_0_1_percent", percent),
        number("Within 0.5%", "within_0_5_percent", percent),
        number("Elements not equal", "different", "{:,.0f}".format),
    )
    return table(columns, rows, _WORST_NOTE)


@plots.picture
def sides_plot(sides: Sequence[dict]) -> Figure:
    """Draws loss, gradient norm, learning rate and corrections of every side over the steps.

    Args:
        sides: The ``sides`` of ``compare.json``.
    """
    figure, axes = plots.panels(2, 2, (10, 6.4))
    loss, norm, learning_rate, corrections = axes.flat
    for place, side in enumerate(sides):
        x = np.arange(1, len(side["loss"]) + 1)
        look = {
            "color": plots.CYCLE[place % len(plots.CYCLE)],
            "linewidth": plots.nested(place, len(sides), 1.1),
            "solid_capstyle": "round",
        }
        least, most = (plots.floats(side["learning_rate"][name]) for name in ("least", "most"))
        loss.plot(x, plots.floats(side["loss"]), label=side["side"], **look)
        norm.plot(x, plots.floats(side["gradient_norm"]), **look)
        learning_rate.fill_between(x, least, most, color=look["color"], alpha=0.2)
        learning_rate.plot(x, most, **look)
        corrections.plot(x, plots.floats(side["c1"]), **look)
        corrections.plot(x, plots.floats(side["c2"]), **look, linestyle=(0, (3, 2)))
    loss.set_title("Loss of the batch")
    norm.set_title("Gradient norm, all parameters")
    learning_rate.set_title("Learning rate (band: over parameters)")
    learning_rate.set_ylim(0, 1.1 * learning_rate.get_ylim()[1])
    corrections.set(title="c1 = 1 − β1ᵗ (solid), c2 = √(1 − β2ᵗ) (dashed)", ylim=(0, 1.05))
    for axis in axes.flat:
        axis.set_xlabel("step")
    plots.whole_numbers(*axes.flat)
    plots.legend_below(figure, ncols=min(3, len(sides)), handlelength=3)
    return figure


@plots.picture
def distance_plot(free: Distances, checks: Sequence[Checks]) -> Figure:
    """Draws the worst tensor of each quantity over the steps: distances, and shares of bounds.

    Args:
        free: Each side going its own way.
        checks: Of both sides; the worse one is drawn.
    """
    figure, ((distance, share),) = plots.panels(1, 2, (10, 4.2))
    for quantity in free.tables:
        look = {"color": _COLOURS[quantity], "marker": ".", "markersize": 4}
        values = free.worst(quantity)["relative"]
        x = np.arange(1, len(values) + 1)
        distance.plot(x, plots.positive(values), label=_WORDS[quantity], **look)
        shares = [of.shares(quantity).max(axis=1) for of in checks if quantity in of.tables]
        if shares:
            share.plot(x, plots.positive(np.max(shares, axis=0)), **look)
    share.axhline(1.0, color=plots.BLACK, linewidth=0.9, linestyle=":")
    distance.set(title="Each side on its own way", ylabel="relative distance, worst tensor")
    share.set(title="Each step by itself", ylabel="share of what roundings explain")
    for axis in (distance, share):
        axis.set(xlabel="step", yscale="log", xlim=(0, len(x) + 1))
    plots.whole_numbers(distance, share)
    plots.legend_below(figure, ncols=7, handlelength=2)
    return figure


@plots.picture(style=plots.NO_GRID)
def heat_map(checks: Checks) -> Figure:
    """Draws the share of its bound of every gradient and parameter in every step.

    Of more than 60 parameters, the 60 that come nearest to their bounds are drawn.
    """
    tables = {q: checks.shares(q).T for q in ("gradient", "parameter") if q in checks.tables}
    farthest = np.max([values.max(axis=1) for values in tables.values()], axis=0)
    rows = np.sort(np.argsort(-farthest, kind="stable")[:_MOST_ROWS])
    figure, (axes,) = plots.panels(1, len(tables), (10, 1.9 + 0.24 * len(rows)), sharey=True)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad=_EQUAL_COLOUR, over="#a8071a")
    for axis, (quantity, values) in zip(axes, tables.items()):
        shown = np.minimum(values[rows], np.finfo(float).max)
        image = axis.imshow(
            np.ma.masked_equal(shown, 0.0),
            norm=LogNorm(1e-4, 1.0),
            cmap=colours,
            aspect="auto",
            interpolation="nearest",
            extent=(0.5, shown.shape[1] + 0.5, len(rows) - 0.5, -0.5),
        )
        axis.set(title=QUANTITIES[quantity].capitalize(), xlabel="step")
    axes[0].set_yticks(range(len(rows)), [_shortened(checks.names[i]) for i in rows], fontsize=8)
    plots.whole_numbers(*axes)
    bar = figure.colorbar(image, ax=list(axes), pad=0.015, extend="max")
    bar.set_label("share of what roundings explain", fontsize=9)
    return figure


def _shortened(name: str) -> str:
    return name if len(name) <= _LABEL_WIDTH else "…" + name[1 - _LABEL_WIDTH :]
