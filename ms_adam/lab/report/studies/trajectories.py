"""Pictures of paths over functions of the plane, and of a linear fit's losses.

Each path has a colour and a marker of its own; the marker is for print without colours.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ms_adam.atomic_write import atomic_write
from ms_adam.lab.report import plots
from ms_adam.lab.report.html import link_pages, read_results
from ms_adam.lab.report.studies import trajectory_page
from ms_adam.lab.report.studies.trajectory_page import Scene, pairs_of, points_of, values_of
from ms_adam.lab.studies.trajectories.study import HEIGHTS, QUADRATICS, REFERENCE, RESULTS, folders

_LOOKS = tuple(zip(plots.CYCLE, "os^vDPX*"))
_OURS = {"color": plots.BLUE, "linewidth": 1.3, "marker": "o", "markersize": 3}
_MINDSPORE = {"color": plots.VERMILION, "linewidth": 0.7, "marker": "o", "markersize": 6.5}
_MINDSPORE["fillstyle"] = "none"
_EDGED = {"linestyle": "none", "markeredgecolor": "black"}
_START = {**_EDGED, "marker": "o", "color": "white", "markersize": 8}
_MINIMUM = {**_EDGED, "marker": "*", "color": plots.YELLOW, "markersize": 14}
_HEIGHTS_MAP = "Greys_r"  # light is high; paths in colours stand out from it
_LEAST_SHOWN = 1e-18  # smaller differences are roundings of float64
_ANIMATION_STYLE = {**plots.NO_GRID, "figure.dpi": 90}


def write_page(folder: Path) -> Optional[Path]:
    """Draws what the configs of a finished run ask for, beside their results, and writes pages.

    Files of earlier pictures are replaced when all pictures of a config are drawn.

    Returns:
        The path of ``index.html``; None if there is one in the folder of each of several configs.
    """
    pages = []
    for of_config in folders(folder):
        content = read_results(of_config, RESULTS)
        with atomic_write(of_config) as writing:
            for name, drawn in _files(content, of_config):
                (writing / name).write_bytes(drawn)
        pages.append(of_config / "index.html")
        link_pages(of_config)
    return pages[0] if pages == [folder / "index.html"] else None


def _files(content: dict[str, Any], folder: Path) -> Iterator[tuple[str, bytes]]:
    """Draws the pictures and the page of one config; yields each file's name and the file."""
    config, rows = content["comparison"], content["results"]
    name = config["name"]
    if "linear_fit" in config:
        yield f"{name}_losses.png", loss_plot(content)
        quadratics = np.load(folder / QUADRATICS)
        shown = [trajectory_page.of_fit(config, quadratics, rows)]
    else:
        with np.load(folder / HEIGHTS) as heights:
            scenes = [
                Scene(label, place, of_it, [row for row in rows if row["function"] == label])
                for place, (label, of_it) in zip(config["functions"], heights.items())
            ]
        yield f"{name}_contours.png", contour_plot(config, scenes)
        yield f"{name}_values.png", value_plot(config, scenes)
        animation = config["figure"]["animation"]
        for scene in scenes if animation else ():
            yield f"{name}_{scene.name}_3d.png", surface_plot(scene)
            yield f"{name}_{scene.name}_3d.gif", surface_animation(scene, **animation)
        shown = [trajectory_page.of_scene(scene, config) for scene in scenes]
    yield "index.html", trajectory_page.page(content, shown).encode("utf-8")


@plots.picture(style=plots.NO_GRID)
def contour_plot(config: dict, scenes: Sequence[Scene]) -> Figure:
    """Draws paths over contours: a panel for each optimizer of one function, or each function.

    With a panel for each optimizer, MindSpore's path lies on that of float64.
    """
    by_optimizer = config["figure"]["panels"] == "optimizers"
    if by_optimizer:
        shown = [(scenes[0], pair) for pair in scenes[0].pairs]
    else:
        shown = [(scene, scene.lines) for scene in scenes]
    figure, axes = _grid(config, len(shown), 3.9)
    for axis, (scene, rows) in zip(axes, shown):
        filled = _contours(axis, scene)
        axis.set(xlim=scene.place["x"], ylim=scene.place["y"], xlabel="x", ylabel="y")
        if by_optimizer:
            _draw_pair(axis, rows)
            axis.set_title(_panel_title(rows[0]))
        else:
            for place, line in enumerate(rows):
                _draw_path(axis, points_of(line), place, line["optimizer"])
            axis.set_title("\n".join([scene.name, *_gone(rows)]))
            _bar(figure, axis, scene, filled)
        axis.plot(*rows[0]["points"][0], zorder=6, **_START)
        axis.plot(*scene.minima.T, zorder=5, **_MINIMUM)
    marks = {"start": _START, "minimum": _MINIMUM}
    if by_optimizer:
        _bar(figure, axes, scenes[0], filled)
        handles, marks = [], {REFERENCE: _OURS, "MindSpore, float32": _MINDSPORE, **marks}
    else:
        handles, _ = axes[0].get_legend_handles_labels()
    _legend(figure, [*handles, *(Line2D([], [], label=n, **look) for n, look in marks.items())])
    figure.suptitle(config["title"])
    return figure


@plots.picture
def value_plot(config: dict, scenes: Sequence[Scene]) -> Figure:
    """Draws f over the steps, less its least value on a log axis where that is known."""
    figure, axes = _grid(config, len(scenes), 3.4, single=7.5)
    for axis, scene in zip(axes, scenes):
        for place, line in enumerate(scene.lines):
            values = values_of(line)
            if scene.least is not None:
                values = plots.positive(values - scene.least)
            axis.plot(values, label=line["optimizer"], **_look(place, len(values), 12))
        if scene.least is None:
            title = f"{scene.name}: f"
            axis.set_ylim(np.nanmin(scene.heights), np.nanmax(scene.heights))
        else:
            title = f"{scene.name}: f less its least value"
            axis.set_yscale("log")
            axis.set_ylim(bottom=max(axis.get_ylim()[0], _LEAST_SHOWN))
        axis.set(title="\n".join([title, *_gone(scene.lines)]), xlabel="step")
    plots.whole_numbers(*axes)
    _legend(figure, axes[0].get_legend_handles_labels()[0])
    figure.suptitle(config["title"])
    return figure


@plots.picture(style=plots.NO_GRID)
def surface_plot(scene: Scene) -> Figure:
    """Draws all optimizers' paths on the surface."""
    figure, axis = _surface(scene)
    for place, line in enumerate(scene.lines):
        _draw_path(axis, scene.lifted(line), place, line["optimizer"], zorder=10)
    _surface_legend(figure, axis, scene)
    return figure


def surface_animation(scene: Scene, frames: int, seconds: float) -> bytes:
    """Draws all optimizers at once, step by step on the surface: a GIF that starts again."""
    none, palette = Image.Dither.NONE, _palette()
    with matplotlib.rc_context(_ANIMATION_STYLE):
        first, *others = [f.quantize(palette=palette, dither=none) for f in _frames(scene, frames)]
    each = round(1000 * seconds / frames)
    times = [each] * (frames - 1) + [each + 1500]
    options = {"save_all": True, "append_images": others, "loop": 0, "duration": times}
    memory = io.BytesIO()
    first.save(memory, format="GIF", optimize=False, **options)
    return memory.getvalue()


@plots.picture
def loss_plot(content: dict[str, Any]) -> Figure:
    """Draws the losses of a linear fit: each iteration's batch, and all points after each epoch."""
    rows, config = content["results"], content["comparison"]
    figure, ((batches, epochs),) = plots.panels(1, 2, (12, 5.2), sharey=True)
    for place, pair in enumerate(pairs_of(rows)):
        for line in pair:
            label = ": ".join(filter(None, (line["optimizer"], _differences(line))))
            look = {**_look(place, 1, 1), "linewidth": 1.1, "label": label}
            if line["computed_by"] == REFERENCE:  # a broad pale band, with MindSpore's line on it
                label = f"{line['optimizer']}, {REFERENCE}"
                look.update(linewidth=5, alpha=0.3, marker="", label=label)
            losses = plots.floats(line["values"])
            batches.plot(np.arange(1, len(losses) + 1), losses, **{**look, "marker": ""})
            epochs.plot(plots.floats(line["epoch_values"]), **{**look, "markevery": 3})
    least = rows[0]["least_value"]
    batches.set(title="Loss of each iteration's batch", xlabel="iteration", xscale="log")
    epochs.set(title="Loss of all points", xlabel="epoch")
    batches.set_ylabel("mean squared error")
    for axis in (batches, epochs):
        axis.axhline(least, color="black", linewidth=0.8, linestyle=":")
        axis.set_yscale("log")
    plots.note(epochs, "the least that the noise allows", 0.98, least, -11, ha="right")
    handles, _ = epochs.get_legend_handles_labels()
    handles.sort(key=lambda line: not line.get_label().endswith(REFERENCE))  # a column of each
    plots.legend_below(figure, handles, ncols=2, fontsize=8.5, handlelength=3)
    figure.suptitle(config["title"])
    return figure


def _frames(scene: Scene, count: int) -> Iterator[Image.Image]:
    """Draws the surface once; each frame draws the paths on a copy of that."""
    figure, axis = _surface(scene)
    paths = [scene.lifted(line) for line in scene.lines]
    lines, dots = [], []
    for place, row in enumerate(scene.lines):
        look = _look(place, 1, 1)
        lines += axis.plot([], [], [], zorder=10, label=row["optimizer"], **look)
        dots += axis.plot([], [], [], **_last_look(place))
    counter = figure.text(0.02, 0.02, "", fontsize=10)
    _surface_legend(figure, axis, scene)
    for line in lines:
        line.set_marker("")  # it is in the legend; on the path it stands at the last point
    moving = [*lines, *dots, counter]
    for artist in moving:
        artist.set_animated(True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")
    background = canvas.copy_from_bbox(figure.bbox)
    last = max(len(path) for path in paths) - 1
    for frame in range(count):
        step = round(frame * last / (count - 1))
        canvas.restore_region(background)
        for line, dot, path in zip(lines, dots, paths):
            seen = path[: step + 1]
            line.set_data_3d(*seen.T)
            dot.set_data_3d(*_last_shown(seen).T)
        counter.set_text(f"step {step} of {last}")
        for artist in moving:
            figure.draw_artist(artist)
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _palette() -> Image.Image:
    """Returns one palette for all frames, so that nothing flickers: greys, and each colour fading.

    One that is taken from a frame gives most of its 256 colours to the surface, and paints two
    thin paths alike.
    """
    greys = np.linspace(0, 255, 96)[:, None].repeat(3, axis=1)
    names = [*plots.CYCLE, _MINIMUM["color"]]
    colours = np.array([to_rgb(name) for name in names]) * 255
    fading = [
        (1 - share) * colours + share * grey
        for grey in (40, 190, 255)
        for share in (0.0, 0.2, 0.4, 0.6, 0.8)
    ]
    table = np.concatenate([greys, *fading]).round().astype(np.uint8)
    palette = Image.new("P", (1, 1))
    palette.putpalette(table.tobytes())
    return palette


def _surface(scene: Scene) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7, 6.6))
    axis = figure.add_axes((0.0, 0.15, 0.94, 0.75), projection="3d", computed_zorder=False)
    heights = scene.drawn(scene.heights)
    axis.plot_surface(
        *np.meshgrid(scene.x, scene.y),
        heights,
        cmap=_HEIGHTS_MAP,
        rcount=75,
        ccount=75,
        linewidth=0.15,
        edgecolor="#9a9a9a",
        vmin=_low_shade(heights),
    )
    if len(scene.minima):
        bottom = np.full(len(scene.minima), scene.drawn(np.float64(scene.least)))
        axis.plot(*scene.minima.T, bottom, zorder=9, **_MINIMUM)
    axis.set(xlabel="x", ylabel="y", zlabel=scene.height_label)
    axis.set(xlim=scene.place["x"], ylim=scene.place["y"])
    axis.view_init(*scene.place["seen_from"])
    return figure, axis


def _low_shade(heights: np.ndarray) -> float:
    """Returns where black would be: so far below that even the deepest place is a light grey."""
    low, high = np.nanmin(heights), np.nanmax(heights)
    return low - 1.2 * (high - low)


def _surface_legend(figure: Figure, axis: Axes, scene: Scene) -> None:
    handles, _ = axis.get_legend_handles_labels()
    figure.legend(handles=handles, loc="lower center", ncols=3, bbox_to_anchor=(0.55, 0.0))
    title = "\n".join([scene.title, *_gone(scene.lines, 75)])
    figure.suptitle(title, x=0.03, ha="left", fontsize=11)


def _contours(axis: Axes, scene: Scene) -> Any:
    heights = scene.drawn(scene.heights)
    levels = np.linspace(np.nanmin(heights), np.nanmax(heights), 19)
    grid = (scene.x, scene.y, heights, levels)
    filled = axis.contourf(*grid, cmap=_HEIGHTS_MAP, vmin=_low_shade(heights))
    axis.contour(*grid, colors="#8a8a8a", linewidths=0.4)
    return filled


def _bar(figure: Figure, axes: Any, scene: Scene, filled: Any) -> None:
    bar = figure.colorbar(filled, ax=axes, shrink=0.8, aspect=25)
    bar.set_label(scene.height_label)
    bar.ax.yaxis.set_major_locator(MaxNLocator(6))


def _draw_path(axis: Axes, path: np.ndarray, place: int, label: str, zorder: int = 3) -> None:
    axis.plot(*path.T, label=label, zorder=zorder, **_look(place, len(path), 8))
    axis.plot(*_last_shown(path).T, **_last_look(place))


def _draw_pair(axis: Axes, rows: Sequence[dict]) -> None:
    """Draws one optimizer: float64 with a dot for each step, MindSpore with a ring."""
    for row in rows:
        if row["computed_by"] == REFERENCE:
            axis.plot(*points_of(row).T, zorder=3, **_OURS)
            continue
        axis.plot(*points_of(row).T, zorder=4, markeredgewidth=0.8, **_MINDSPORE)
        words = row["computed_by"].replace(", float32", "")
        if _differences(row):
            words += f"\n({_differences(row)})"
        box = {"facecolor": "white", "alpha": 0.75, "lw": 0}
        corner = {"transform": axis.transAxes, "ha": "right", "va": "bottom"}
        axis.text(0.98, 0.02, words, fontsize=8, color="#8f3d00", bbox=box, **corner)


def _panel_title(row: dict) -> str:
    name, steps = row["optimizer"], f"{len(row['points'])} steps"
    end = "no finite number" if row["end_value"] is None else f"{row['end_value']:.3g}"
    title = name if steps in name else f"{name}, {steps}"
    return "\n".join([f"{title}: f = {end} at the end", *_gone([row])])


def _gone(rows: Sequence[dict], width: int = 40) -> list[str]:
    """Returns lines that name the paths which cannot be seen to their end."""
    divergent = [row for row in rows if row["not_finite_from"] is not None]
    away = [row for row in rows if row not in divergent and row["outside_from"] is not None]
    lines = []
    for words, gone, key in (
        ("diverges, not finite", divergent, "not_finite_from"),
        ("leaves the picture", away, "outside_from"),
    ):
        if gone:
            # no line breaks at the space between name and step
            names = ", ".join(f"{row['optimizer']}\N{NO-BREAK SPACE}{row[key]}" for row in gone)
            lines += textwrap.wrap(f"{words} from step: {names}", width)
    return lines


def _last_shown(path: np.ndarray) -> np.ndarray:
    """Returns the last finite point, of shape (1, n); (0, n) if there is none."""
    return path[np.isfinite(path).all(axis=1)][-1:]


def _look(place: int, points: int, markers: int) -> dict[str, Any]:
    """Returns how the path at this place in the list looks, with about so many markers on it."""
    colour, marker = _LOOKS[place % len(_LOOKS)]
    every, style = max(1, math.ceil(points / markers)), "-" if place < len(_LOOKS) else "--"
    look = {"color": colour, "marker": marker, "markersize": 4.5, "markevery": every}
    return {**look, "linewidth": 1.6, "linestyle": style}


def _last_look(place: int) -> dict[str, Any]:
    """Returns how the last point of the path at this place looks."""
    edge = {"markeredgecolor": "white", "linestyle": "none", "zorder": 12}
    return {**dict(zip(("color", "marker"), _LOOKS[place % len(_LOOKS)])), "markersize": 8, **edge}


def _legend(figure: Figure, handles: Sequence) -> None:
    fit = max(2, int(figure.get_figwidth() // 1.6))  # an entry takes up to 1.6 inches
    plots.legend_below(figure, handles, ncols=min(fit, len(handles)))


def _grid(config: dict, count: int, height: float, single: float = 0.0) -> tuple:
    columns = min(config["figure"]["columns"], count)
    lines = math.ceil(count / columns)
    figure, axes = plots.panels(lines, columns, (max(4.1 * columns, single), height * lines + 0.8))
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, list(axes.flat[:count])


def _differences(row: dict) -> str:
    """Returns those of a counterpart's formula to the one that was asked for; "" of another row."""
    return (row["mindspore"] or {}).get("differences", "")
