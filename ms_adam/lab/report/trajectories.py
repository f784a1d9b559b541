"""Pictures of paths over functions of the plane, and of a linear fit's losses.

Colours are those of Okabe & Ito 2008, which are told apart with every common kind of colour
blindness; each path also has a marker of its own, for print without colours.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure  # not pyplot: no screen, and nothing global is kept
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ms_adam.lab.studies.trajectories.comparison import REFERENCE
from ms_adam.lab.studies.trajectories.config import Animation, Trajectories
from ms_adam.lab.studies.trajectories.paths import Scene

Progress = Callable[[int, int], None]  # is told how many pictures of how many are drawn

_COLOURS = ("#000000", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#56B4E9")
_MARKERS = ("o", "s", "^", "v", "D", "P", "X")
_MINDSPORE = "#D55E00"  # where one path alone has company
_START = {"marker": "o", "color": "white", "markeredgecolor": "black", "markersize": 8}
_MINIMUM = {"marker": "*", "color": "#F0E442", "markeredgecolor": "black", "markersize": 14}
_HEIGHTS = "Greys_r"  # light is high; paths in colours stand out from it
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_LEAST_SHOWN = 1e-18  # differences below it are roundings of float64
_DPI = 130
_ANIMATION_DPI = 90


def write_trajectories(
    config: Trajectories, scenes: Sequence[Scene], out: Path, progress: Progress
) -> list[str]:
    """Draws what the config's layout asks for.

    Args:
        config: Its `figure` says what; its name stands first in the files' names.
        scenes: What `ms_adam.lab.studies.trajectories.paths.run` gave.
        out: The folder to write to.
        progress: Is called after each picture; each frame of an animation is one.

    Returns:
        The names of the files.
    """
    animation = config.figure.animation
    total = 2 + (len(scenes) * (1 + animation.frames) if animation else 0)
    files: list[str] = []
    drawn = 0

    def write(name: str, content: bytes) -> None:
        nonlocal drawn
        (out / name).write_bytes(content)
        files.append(name)
        drawn += 1
        progress(drawn, total)

    write(f"{config.name}_contours.png", contour_plot(config, scenes))
    write(f"{config.name}_values.png", value_plot(config, scenes))
    if animation:
        for scene in scenes:
            write(f"{config.name}_{scene.name}_3d.png", surface_plot(scene))

            def framed(done: int, before: int = drawn) -> None:
                progress(before + done, total)

            film = surface_animation(scene, animation, framed)
            drawn += animation.frames - 1  # `write` counts the last
            write(f"{config.name}_{scene.name}_3d.gif", film)
    return files


def write_losses(content: dict[str, Any], out: Path) -> list[str]:
    """Draws the losses of a linear fit.

    Args:
        content: What `ms_adam.lab.studies.trajectories.linear_fit.run` gave.
        out: The folder to write to.

    Returns:
        The names of the files.
    """
    name = f"{content['comparison']['name']}_losses.png"
    (out / name).write_bytes(loss_plot(content))
    return [name]


def contour_plot(config: Trajectories, scenes: Sequence[Scene]) -> bytes:
    """Paths over contours: a panel for each optimizer of one function, or for each function.

    With a panel for each optimizer, MindSpore's path lies on that of float64.

    Returns:
        A PNG.
    """
    by_optimizer = config.figure.panels == "optimizers"
    if by_optimizer:
        names = [entry.name for entry in config.optimizers]
        panels = [(scenes[0], _of_optimizer(scenes[0].rows, name)) for name in names]
    else:
        panels = [(scene, _float64(scene.rows)) for scene in scenes]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _grid(len(panels), config.figure.columns, 4.1, 3.9)
        for axis, (scene, rows) in zip(axes, panels):
            colours = _contours(axis, scene)
            axis.set(xlim=scene.x[[0, -1]], ylim=scene.y[[0, -1]], xlabel="x", ylabel="y")
            if by_optimizer:
                _draw_pair(axis, rows)
                axis.set_title(_panel_title(rows[0]))
            else:
                for place, line in enumerate(rows):
                    _draw_path(axis, line, place)
                gone = _gone(rows)
                axis.set_title(scene.name + (f"\n{gone}" if gone else ""))
            axis.plot(*np.array(rows[0]["points"][0]), linestyle="none", zorder=6, **_START)
            if len(scene.minima):
                axis.plot(*scene.minima.T, linestyle="none", zorder=5, **_MINIMUM)
            if not by_optimizer:
                _bar(figure, axis, scene, colours)
        if by_optimizer:
            _bar(figure, axes, scenes[0], colours)
        _legend(figure, axes[0], panels[0][1] if not by_optimizer else None, by_optimizer)
        figure.suptitle(config.title)
        return _png(figure)


def value_plot(config: Trajectories, scenes: Sequence[Scene]) -> bytes:
    """f over the steps, less its least value on a log axis where that is known.

    Returns:
        A PNG.
    """
    with matplotlib.rc_context({**_STYLE, "axes.grid": True, "grid.color": "#e4e4e4"}):
        figure, axes = _grid(len(scenes), config.figure.columns, 4.1, 3.4, single=7.5)
        for axis, scene in zip(axes, scenes):
            lines = _float64(scene.rows)
            for place, line in enumerate(lines):
                values = _numbers([*line["values"], line["end_value"]])
                if scene.least is not None:
                    values = np.where(values > scene.least, values - scene.least, np.nan)
                axis.plot(values, label=line["optimizer"], **_look(place, len(values), 12))
            if scene.least is None:
                low, high = np.nanmin(scene.heights), np.nanmax(scene.heights)
                axis.set(title=f"{scene.name}: f", ylim=(low, high))
            else:
                axis.set(title=f"{scene.name}: f less its least value", yscale="log")
                axis.set_ylim(bottom=max(axis.get_ylim()[0], _LEAST_SHOWN))
            gone = _gone(lines)
            if gone:
                axis.set_title(axis.get_title(loc="left") + f"\n{gone}")
            axis.set_xlabel("step")
            axis.xaxis.get_major_locator().set_params(integer=True)
        handles, _ = axes[0].get_legend_handles_labels()
        _legend_below(figure, handles)
        figure.suptitle(config.title)
        return _png(figure)


def surface_plot(scene: Scene) -> bytes:
    """All optimizers' paths on the surface.

    Returns:
        A PNG.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axis = _surface(scene)
        for place, line in enumerate(_float64(scene.rows)):
            path = _lifted(scene, line)
            axis.plot(*path.T, zorder=10, label=line["optimizer"], **_look(place, len(path), 8))
            _mark_last(axis, path, place)
        _surface_legend(figure, axis, scene)
        return _png(figure)


def surface_animation(scene: Scene, animation: Animation, progress: Callable[[int], None]) -> bytes:
    """All optimizers at once, step by step on the surface.

    Returns:
        A GIF that starts again at its end.
    """
    palette = _palette()
    indexed = [
        frame.quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in _frames(scene, animation, progress)
    ]
    each = round(1000 * animation.seconds / animation.frames)
    memory = io.BytesIO()
    indexed[0].save(
        memory,
        format="GIF",
        save_all=True,
        append_images=indexed[1:],
        loop=0,
        duration=[each] * (len(indexed) - 1) + [each + 1500],
        optimize=False,
    )
    return memory.getvalue()


def loss_plot(content: dict[str, Any]) -> bytes:
    """The losses of a linear fit: each iteration's batch, and all points after each epoch.

    Args:
        content: What `ms_adam.lab.studies.trajectories.linear_fit.run` gave.

    Returns:
        A PNG.
    """
    rows = content["results"]
    names = [entry["name"] for entry in content["comparison"]["optimizers"]]
    with matplotlib.rc_context({**_STYLE, "axes.grid": True, "grid.color": "#e4e4e4"}):
        figure = Figure(figsize=(12, 5.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for place, name in enumerate(names):
            for line in _of_optimizer(rows, name):
                look = _look(place, 1, 1)
                if line["computed_by"] != REFERENCE:
                    look.update(linewidth=1.1, label=_short(line))
                else:  # a broad pale band, on which MindSpore's thin line lies
                    look.update(linewidth=5, alpha=0.3, marker="", label=f"{name}, {REFERENCE}")
                losses = _numbers(line["values"])
                axes[0].plot(np.arange(1, len(losses) + 1), losses, **{**look, "marker": ""})
                axes[1].plot(_numbers(line["epoch_values"]), **{**look, "markevery": 3})
        for axis, title, unit in zip(
            axes, ("Loss of each iteration's batch", "Loss of all points"), ("iteration", "epoch")
        ):
            axis.axhline(rows[0]["least_value"], color="black", linewidth=0.8, linestyle=":")
            axis.set(title=title, xlabel=unit, yscale="log")
        axes[0].set_xscale("log")
        axes[1].annotate(
            "the least that the noise allows",
            (0.98, rows[0]["least_value"]),
            xycoords=("axes fraction", "data"),
            xytext=(0, -11),
            textcoords="offset points",
            fontsize=8.5,
            ha="right",
        )
        axes[0].set_ylabel("mean squared error")
        handles, _ = axes[1].get_legend_handles_labels()
        handles.sort(key=lambda line: not line.get_label().endswith(REFERENCE))  # a column of each
        figure.legend(
            handles=handles, loc="outside lower center", ncols=2, fontsize=8.5, handlelength=3
        )
        figure.suptitle(content["comparison"]["title"])
        return _png(figure)


def _frames(scene: Scene, animation: Animation, progress: Callable) -> Iterator[Image.Image]:
    """The surface is drawn once; each frame draws the paths on a copy of that."""
    with matplotlib.rc_context({**_STYLE, "figure.dpi": _ANIMATION_DPI}):
        figure, axis = _surface(scene)
        paths = [_lifted(scene, line) for line in _float64(scene.rows)]
        lines, dots = [], []
        for place, row in enumerate(_float64(scene.rows)):
            look = _look(place, 1, 1)
            lines += axis.plot([], [], [], zorder=10, label=row["optimizer"], **look)
            dots += axis.plot(
                [],
                [],
                [],
                zorder=11,
                linestyle="none",
                color=look["color"],
                marker=look["marker"],
                markersize=8,
                markeredgecolor="white",
            )
        counter = figure.text(0.02, 0.02, "", fontsize=10)
        _surface_legend(figure, axis, scene)
        for line in lines:
            line.set_marker("")  # the legend has it; on the path it stands at the last point
        moving = [*lines, *dots, counter]
        for artist in moving:
            artist.set_animated(True)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        figure.set_layout_engine("none")
        background = canvas.copy_from_bbox(figure.bbox)
        last = max(len(path) for path in paths) - 1
        for frame in range(animation.frames):
            step = round(frame * last / (animation.frames - 1))
            canvas.restore_region(background)
            for line, dot, path in zip(lines, dots, paths):
                seen = path[: step + 1]
                line.set_data_3d(*seen.T)
                dot.set_data_3d(*_last_shown(seen).reshape(-1, 3).T)
            counter.set_text(f"step {step} of {last}")
            for artist in moving:
                figure.draw_artist(artist)
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
            progress(frame + 1)


def _palette() -> Image.Image:
    """One palette for all frames, so that nothing flickers: greys, and each colour fading.

    One that is taken from a frame gives most of its 256 colours to the surface, and paints two
    thin paths alike.
    """
    greys = np.linspace(0, 255, 96)[:, None].repeat(3, axis=1)
    colours = np.array([to_rgb(colour) for colour in (*_COLOURS[1:], _MINIMUM["color"])]) * 255
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
    heights = _heights(scene, scene.heights)
    axis.plot_surface(
        *np.meshgrid(scene.x, scene.y),
        heights,
        cmap="Greys_r",
        rcount=75,
        ccount=75,
        linewidth=0.15,
        edgecolor="#9a9a9a",
        vmin=_low_shade(heights),
    )
    if len(scene.minima):
        bottom = np.full(len(scene.minima), _heights(scene, np.float64(scene.least)))
        axis.plot(*scene.minima.T, bottom, linestyle="none", zorder=9, **_MINIMUM)
    axis.set(
        xlabel="x",
        ylabel="y",
        zlabel=_height_label(scene),
        xlim=scene.x[[0, -1]],
        ylim=scene.y[[0, -1]],
    )
    axis.view_init(*scene.seen_from)
    return figure, axis


def _low_shade(heights: np.ndarray) -> float:
    """Where black would be: so far below that even the deepest place is a light grey."""
    low, high = np.nanmin(heights), np.nanmax(heights)
    return low - 1.2 * (high - low)


def _surface_legend(figure: Figure, axis, scene: Scene) -> None:
    handles, _ = axis.get_legend_handles_labels()
    figure.legend(handles=handles, loc="lower center", ncols=3, bbox_to_anchor=(0.55, 0.0))
    gone = _gone(_float64(scene.rows), 75)
    title = f"{scene.name}: {scene.formula}" if scene.formula != scene.name else scene.name
    figure.suptitle(title + (f"\n{gone}" if gone else ""), x=0.03, ha="left", fontsize=11)


def _lifted(scene: Scene, row: dict) -> np.ndarray:
    """A path as (x, y, height), cut where it first leaves the picture."""
    points = _numbers([*row["points"], row["end"]])
    values = _numbers([*row["values"], row["end_value"]])
    path = np.column_stack([points, _heights(scene, values)])
    gone = [step for step in (row["outside_from"], row["not_finite_from"]) if step is not None]
    return np.where(np.arange(len(path))[:, None] < min(gone, default=len(path)), path, np.nan)


def _heights(scene: Scene, values: np.ndarray) -> np.ndarray:
    if scene.scale == "linear":
        return values
    least = scene.least if scene.least is not None else np.nanmin(scene.heights)
    # 1 +: the least value has a height too. A rounding can take a value below the least.
    return np.log10(1 + np.maximum(values - least, 0))


def _height_label(scene: Scene) -> str:
    if scene.scale == "linear":
        return "f"
    return "log10(1 + f)" if scene.least == 0 else "log10(1 + f - least f)"


def _contours(axis, scene: Scene):
    heights = _heights(scene, scene.heights)
    levels = np.linspace(np.nanmin(heights), np.nanmax(heights), 19)
    filled = axis.contourf(
        scene.x, scene.y, heights, levels, cmap=_HEIGHTS, vmin=_low_shade(heights)
    )
    axis.contour(scene.x, scene.y, heights, levels, colors="#8a8a8a", linewidths=0.4)
    return filled


def _bar(figure, axes, scene: Scene, colours) -> None:
    bar = figure.colorbar(colours, ax=axes, shrink=0.8, aspect=25)
    bar.set_label(_height_label(scene))
    bar.ax.yaxis.set_major_locator(MaxNLocator(6))


def _draw_path(axis, row: dict, place: int) -> None:
    points = _numbers([*row["points"], row["end"]])
    axis.plot(*points.T, label=row["optimizer"], zorder=3, **_look(place, len(points), 8))
    _mark_last(axis, points, place)


def _draw_pair(axis, rows: Sequence[dict]) -> None:
    """One optimizer: float64 as a line with a dot for each step, MindSpore's dots as rings."""
    for row in rows:
        points = _numbers([*row["points"], row["end"]])
        if row["computed_by"] == REFERENCE:
            axis.plot(
                *points.T, color=_COLOURS[5], linewidth=1.3, marker="o", markersize=3, zorder=3
            )
        else:
            axis.plot(
                *points.T,
                color=_MINDSPORE,
                linewidth=0.7,
                marker="o",
                markersize=6.5,
                fillstyle="none",
                markeredgewidth=0.8,
                zorder=4,
            )
            facts = row["mindspore"]
            words = row["computed_by"].replace(", float32", "")
            if facts is not None and not facts["same_formula"]:
                words += f"\n({facts['differences']})"
            axis.annotate(
                words,
                (0.98, 0.02),
                xycoords="axes fraction",
                fontsize=8,
                ha="right",
                color="#8f3d00",
                bbox={"facecolor": "white", "alpha": 0.75, "lw": 0},
            )


def _panel_title(row: dict) -> str:
    steps = len(row["points"])
    name = row["optimizer"]
    title = name if f"{steps} steps" in name else f"{name}, {steps} steps"
    end = "no finite number" if row["end_value"] is None else f"{row['end_value']:.3g}"
    gone = _gone([row])
    return f"{title}: f = {end} at the end" + (f"\n{gone}" if gone else "")


def _gone(rows: Sequence[dict], width: int = 40) -> str:
    """Which paths can not be seen to their end, in words; empty if all can."""
    divergent = [row for row in rows if row["not_finite_from"] is not None]
    away = [row for row in rows if row not in divergent and row["outside_from"] is not None]
    lines = []
    for words, gone, key in (
        ("diverges, not finite", divergent, "not_finite_from"),
        ("leaves the picture", away, "outside_from"),
    ):
        if gone:
            # the space between name and step is one at which no line breaks
            names = ", ".join(f"{row['optimizer']}\N{NO-BREAK SPACE}{row[key]}" for row in gone)
            lines += textwrap.wrap(f"{words} from step: {names}", width)
    return "\n".join(lines)


def _mark_last(axis, path: np.ndarray, place: int) -> None:
    look = _look(place, 1, 1)
    last = _last_shown(path)
    if len(last):
        axis.plot(
            *last[:, None],
            linestyle="none",
            color=look["color"],
            marker=look["marker"],
            markersize=8,
            markeredgecolor="white",
            zorder=12,
        )


def _last_shown(path: np.ndarray) -> np.ndarray:
    """The last point that is one; empty if there is none."""
    finite = np.flatnonzero(np.isfinite(path).all(axis=1))
    return path[finite[-1]] if len(finite) else np.empty(0)


def _look(place: int, points: int, markers: int) -> dict[str, Any]:
    """How the path at this place in the list looks, with about so many markers on it."""
    kind = place % len(_COLOURS)
    return {
        "color": _COLOURS[kind],
        "marker": _MARKERS[kind],
        "markersize": 4.5,
        "markevery": max(1, math.ceil(points / markers)),
        "linewidth": 1.6,
        "linestyle": "-" if place < len(_COLOURS) else "--",
    }


def _legend(figure: Figure, axis, rows: Optional[Sequence[dict]], by_optimizer: bool) -> None:
    handles, _ = axis.get_legend_handles_labels()
    if by_optimizer:
        handles = [
            Line2D([], [], color=_COLOURS[5], marker="o", markersize=3, label=REFERENCE),
            Line2D(
                [],
                [],
                color=_MINDSPORE,
                marker="o",
                markersize=6.5,
                linewidth=0.7,
                fillstyle="none",
                label="MindSpore, float32",
            ),
        ]
    handles.append(Line2D([], [], linestyle="none", label="start", **_START))
    handles.append(Line2D([], [], linestyle="none", label="minimum", **_MINIMUM))
    _legend_below(figure, handles)


def _legend_below(figure: Figure, handles: Sequence) -> None:
    fit = max(2, int(figure.get_figwidth() // 1.6))  # an entry takes up to 1.6 inches
    figure.legend(handles=handles, loc="outside lower center", ncols=min(fit, len(handles)))


def _grid(panels: int, columns: int, width: float, height: float, single: float = 0.0):
    columns = min(columns, panels)
    lines = math.ceil(panels / columns)
    figure = Figure(
        figsize=(max(width * columns, single), height * lines + 0.8), layout="constrained"
    )
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes[:panels]


def _of_optimizer(rows: Sequence[dict], name: str) -> list[dict]:
    """The rows of one optimizer: its own, and its counterpart's if there is one."""
    counterpart = f"{name} ("
    return [
        row
        for row in rows
        if row["optimizer"] == name
        or (row["optimizer"].startswith(counterpart) and row["mindspore"] is not None)
    ]


def _float64(rows: Sequence[dict]) -> list[dict]:
    """A row for each optimizer: that of the config, not that of its counterpart."""
    return [row for row in rows if row["mindspore"] is None or "distance" not in row["mindspore"]]


def _short(row: dict) -> str:
    facts = row["mindspore"]
    if facts is None or facts["same_formula"]:
        return row["optimizer"]
    return f"{row['optimizer']}: {facts['differences']}"


def _numbers(values: Any) -> np.ndarray:
    """Numbers as they are read from JSON, null as NaN."""
    return np.array(values, dtype=np.float64)


def _png(figure: Figure) -> bytes:
    memory = io.BytesIO()
    # No software version or date in the file: the same paths give the same bytes.
    figure.savefig(memory, format="png", dpi=_DPI, metadata={"Software": None})
    return memory.getvalue()
