"""The pictures show the paths that they are given, and say where one cannot be seen."""

import io
import json

import numpy as np
from lab.report.studies.report_entries import line
from lab.studies.trajectories.small_comparison import small
from PIL import Image

from ms_adam.lab.report import plots
from ms_adam.lab.report.studies import trajectories as pictures
from ms_adam.lab.report.studies.trajectory_page import Scene
from ms_adam.lab.studies.trajectories.config import Comparison
from ms_adam.lab.studies.trajectories.study import HEIGHTS, REFERENCE, RESULTS

PLACE = {"function": "sphere", "start": [1, 1], "x": [-2, 2], "y": [-2, 2]}
FACTS = {"optimizer": "nn.X", "same_formula": False, "differences": "it is red", "distance": 1e-7}
FACTS.update(limit=1e-6, share_of_limit=0.1, within_limit=True, distance_to_method=0.5)


def row(optimizer, points, mindspore=None, **more):
    computed_by = REFERENCE if mindspore is None else "nn.X, float32"
    values = [None if None in p else p[0] ** 2 + p[1] ** 2 for p in points]
    return {
        "function": "sphere",
        "optimizer": optimizer,
        "computed_by": computed_by,
        "points": points[:-1],
        "values": values[:-1],
        "end": points[-1],
        "end_value": values[-1],
        "outside_from": None,
        "not_finite_from": None,
        "mindspore": mindspore,
        **more,
    }


ROWS = [
    row("SGD", [[1, 1], [0.5, 0.5], [0.25, 0.25]]),
    row("SGD (nn.X)", [[1, 1], [0.5, 0.6], [0.25, 0.3]], FACTS),
    row("away", [[1, 1], [3, 1], [1, 1]], outside_from=1),
    row("lost", [[1, 1], [None, None], [None, None]], outside_from=1, not_finite_from=1),
]


def make_scene(rows=ROWS, scale="linear", function="sphere"):
    x = np.linspace(-2, 2, 41)
    place = {**PLACE, "function": function, "name": None, "scale": scale, "seen_from": [40, -60]}
    return Scene(function, place, x**2 + x[:, None] ** 2, rows)


def make_config(panels="functions", animation=None):
    names = ("SGD", "away", "lost")
    content = small(
        name="c",
        title="t",
        mindspore=True,
        functions=[PLACE],
        optimizers=[{"name": name, "method": "SGD", "steps": 2} for name in names],
        figure={"panels": panels, "columns": 2, "animation": animation},
    )
    return Comparison.model_validate(content).described()


def test_contours_of_a_function_show_each_path_but_mindspores(figures):
    pictures.contour_plot(make_config(), [make_scene()])
    axis = figures[0].axes[0]
    assert line(axis, "SGD").get_xydata().tolist() == [[1, 1], [0.5, 0.5], [0.25, 0.25]]
    assert "SGD (nn.X)" not in [line.get_label() for line in axis.lines]
    assert np.isnan(line(axis, "lost").get_xydata()[1:]).all()
    assert axis.get_xlim() == axis.get_ylim() == (-2, 2)  # a path that goes away is cut there
    title = axis.get_title(loc="left").replace("\N{NO-BREAK SPACE}", " ")
    assert "diverges, not finite from step: lost 1" in title
    assert "leaves the picture from step: away 1" in title


def test_contours_of_an_optimizer_show_mindspore_on_it(figures):
    pictures.contour_plot(make_config("optimizers"), [make_scene()])
    axes = figures[0].axes[:3]
    drawn = [line.get_xydata().tolist() for line in axes[0].lines]
    assert [[1, 1], [0.5, 0.5], [0.25, 0.25]] in drawn
    assert [[1, 1], [0.5, 0.6], [0.25, 0.3]] in drawn
    assert [text.get_text() for text in axes[0].texts] == ["nn.X\n(it is red)"]
    assert axes[0].get_title(loc="left") == "SGD, 2 steps: f = 0.125 at the end"
    assert "lost, 2 steps: f = no finite number" in axes[2].get_title(loc="left")
    assert not axes[1].texts  # nothing of MindSpore's is beside it


def test_an_optimizer_with_the_name_of_another_and_more_has_a_panel_of_its_own(figures):
    """Names in brackets are for counterparts, and free for optimizers too."""
    own = row("SGD (slow)", [[1, 1], [0.9, 0.9], [0.8, 0.8]])
    theirs = row("SGD (slow) (nn.X)", [[1, 1], [0.9, 0.9], [0.7, 0.7]], FACTS)
    config = make_config("optimizers")
    config["optimizers"][1]["name"] = "SGD (slow)"
    first, beside, *others = ROWS
    pictures.contour_plot(config, [make_scene([first, own, beside, theirs, *others])])
    ends = [[line.get_xydata().tolist()[-1] for line in axis.lines] for axis in figures[0].axes[:2]]
    assert [end[:2] for end in ends] == [[[0.25, 0.25], [0.25, 0.3]], [[0.8, 0.8], [0.7, 0.7]]]


def test_no_letter_lies_outside_of_a_figure(monkeypatch):
    """Titles are broken into lines and the legend into rows."""
    away = [row(f"optimizer {n}", [[1, 1], [3, 1], [1, 1]], outside_from=1) for n in range(7)]
    seen = []

    def look(figure):
        figure.canvas.draw()
        boxes = [legend.get_window_extent() for legend in figure.legends]
        boxes += [axis._left_title.get_window_extent() for axis in figure.axes]
        seen.append((figure.bbox, boxes))
        return b""

    monkeypatch.setattr(plots, "png", look)
    config, scene = make_config(), make_scene(away)
    pictures.contour_plot(config, [scene, scene])
    pictures.value_plot(config, [scene])
    for page, boxes in seen:
        assert boxes
        for box in boxes:
            assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0


def test_values_stand_on_a_log_axis_where_the_least_is_known(figures):
    pictures.value_plot(make_config(), [make_scene(), make_scene(function="own:f")])
    known, unknown = figures[0].axes[:2]
    assert known.get_yscale() == "log" and unknown.get_yscale() == "linear"
    assert line(known, "SGD").get_ydata().tolist() == [2, 0.5, 0.125]
    assert np.isnan(line(known, "lost").get_ydata()[1:]).all()
    assert unknown.get_ylim() == (0, 8)  # what the surface has


def test_a_surface_path_ends_where_it_leaves(figures):
    pictures.surface_plot(make_scene())
    (axis,) = figures[0].axes
    x, y, z = line(axis, "SGD").get_data_3d()
    assert z.tolist() == [2, 0.5, 0.125]
    assert np.isfinite(line(axis, "away").get_data_3d()[2]).tolist() == [True, False, False]
    words = figures[0]._suptitle.get_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "away 1" in words and "lost 1" in words


def test_log_heights(figures):
    pictures.surface_plot(make_scene(scale="log"))
    (axis,) = figures[0].axes
    np.testing.assert_allclose(line(axis, "SGD").get_data_3d()[2], np.log10([3, 1.5, 1.125]))
    assert axis.get_zlabel() == "log10(1 + f)"


def test_the_animation_moves_and_keeps_the_colours():
    gif = pictures.surface_animation(make_scene(), frames=3, seconds=1.5)
    film = Image.open(io.BytesIO(gif))
    assert (film.n_frames, film.info["loop"]) == (3, 0)
    frames = []
    for number in range(3):
        film.seek(number)
        frames.append(np.array(film.convert("RGB"), dtype=int))
        assert film.info["duration"] == (500 if number < 2 else 2000)
    assert (frames[0] != frames[1]).any() and (frames[1] != frames[2]).any()
    vermilion = np.array([0xD5, 0x5E, 0x00])  # the second path's colour: in the legend at least
    assert (np.abs(frames[2] - vermilion).max(axis=2) <= 2).sum() > 20


def test_every_optimizer_has_a_colour_in_the_palette():
    table = np.array(pictures._palette().getpalette()).reshape(-1, 3)
    for colour in plots.CYCLE:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(table - wanted).max(axis=1).min() <= 1


def test_files(tmp_path):
    config = make_config(animation={"frames": 2, "seconds": 1})
    content = {"comparison": config, "environment": {}, "results": ROWS}
    (tmp_path / RESULTS).write_text(json.dumps(content))
    np.savez(tmp_path / HEIGHTS, sphere=make_scene().heights)
    assert pictures.write_page(tmp_path) == tmp_path / "index.html"
    drawn = {path.name for path in tmp_path.iterdir()} - {RESULTS, HEIGHTS, "index.html"}
    assert drawn == {"c_contours.png", "c_sphere_3d.gif", "c_sphere_3d.png", "c_values.png"}
    for name in drawn:
        Image.open(tmp_path / name).verify()


def test_the_same_paths_give_the_same_bytes():
    config, scene = make_config(), make_scene()
    assert pictures.contour_plot(config, [scene]) == pictures.contour_plot(config, [scene])


def test_losses(figures):
    def fit(optimizer, computed_by, losses, epochs, facts):
        numbers = {"values": losses, "epoch_values": epochs, "least_value": 0.25}
        return {"optimizer": optimizer, "computed_by": computed_by, "mindspore": facts, **numbers}

    content = {
        "comparison": {"title": "t", "optimizers": [{"name": "SGD"}, {"name": "own"}]},
        "results": [
            fit("SGD", REFERENCE, [4.0, 2.0, None], [4.0, 1.0], None),
            fit("SGD (nn.X)", "nn.X, float32", [4.0, 3.0, 2.0], [4.0, 1.5], FACTS),
            fit("own", REFERENCE, [4.0, 2.5], [4.0, 3.5], {"optimizer": None, "reason": "none"}),
        ],
    }
    pictures.loss_plot(content)
    iterations, epochs = figures[0].axes
    assert line(iterations, f"SGD, {REFERENCE}").get_ydata()[:2].tolist() == [4, 2]
    assert line(epochs, "SGD (nn.X): it is red").get_ydata().tolist() == [4, 1.5]
    assert line(epochs, f"own, {REFERENCE}").get_ydata().tolist() == [4, 3.5]
    assert iterations.get_yscale() == epochs.get_yscale() == "log"
    assert any(list(line.get_ydata()) == [0.25, 0.25] for line in epochs.lines)
