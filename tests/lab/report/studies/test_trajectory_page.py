"""The page in a browser: its formulas are those of the reference, and what is moved moves."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from lab.report.chromium import needs_chromium, play
from lab.studies.trajectories.small_comparison import linear, load_keys, run_in, small

from ms_adam import reference
from ms_adam.lab.problems.functions import FUNCTIONS
from ms_adam.lab.report.studies import trajectories, trajectory_page
from ms_adam.lab.studies.trajectories import study
from ms_adam.lab.studies.trajectories.config import LinearFit
from ms_adam.lab.studies.trajectories.following import Fit, follow
from ms_adam.lab.studies.trajectories.methods import METHODS

STEPS, START = 20, [0.7, -0.4]
# Both make the same operations in the same order, in float64. The last bit of pow, exp, log, sin
# and cos may differ between NumPy and a browser: per step some 10 roundings of 1.1e-16, of numbers
# up to 1000 (beale's slopes) times a rate of 1e-3. Errors grow by 1 + rate * curvature in a step,
# by less than 100 over all steps: 20 * 10 * 1.1e-16 * 100 = 2e-12.
TOLERANCE = 2e-12
VARIANTS = [
    reference.SGD(1e-3),
    reference.Momentum(1e-3),
    reference.Momentum(1e-3, form="scaled"),
    reference.Momentum(1e-3, form="ema"),
    reference.Momentum(1e-3, form="ema", bias_correction=True),
    reference.Nesterov(1e-3),
    reference.Nesterov(1e-3, form="sutskever"),
    reference.AdaGrad(0.05),
    reference.AdaGrad(0.05, epsilon="inside", initial_accumulator=0.1),
    reference.RMSProp(0.01),
    reference.RMSProp(0.01, epsilon="inside", initial_mean_square=1.0),
    reference.RMSProp(0.01, centered=True, eps=0.1),
    reference.Adam(0.02),
    reference.Adam(0.02, eps=0.1, epsilon="hat"),
    reference.Adam(0.02, eps=0.1, epsilon="inside"),
    reference.Adam(0.02, bias_correction=False, beta1=0.0),
    reference.Adam(0.02, nesterov=True, amsgrad=True, beta2=0.5),
    reference.Adam(0.02, weight_decay=0.1, loss_scale=3.0),
    reference.Adam(0.02, weight_decay=0.1, decoupled=True, maximize=True),
    reference.AdaMax(0.02),
    reference.AdaMax(0.02, weight_decay=0.1, loss_scale=3.0, maximize=True),
]


def script(name):
    return (Path(trajectory_page.__file__).parent / name).read_text(encoding="utf-8")


@needs_chromium
def test_paths_are_those_of_the_reference(tmp_path):
    assert {type(method) for method in VARIANTS} == set(METHODS.values())
    fit = Fit(LinearFit(**linear()["linear_fit"]))
    by_name = [(method, name) for method in VARIANTS for name in FUNCTIONS]
    cases = [(type(m).__name__, dataclasses.asdict(m), FUNCTIONS[name].text) for m, name in by_name]
    played = play(
        f"<!DOCTYPE html><html><head></head><body><script>{script('paths.js')}</script>",
        f"""
        const batches = {json.dumps(fit.quadratics().tolist())}.map(quadratic);
        const walk = (method, options, gradient, steps) =>
          follow(method, options, gradient, {START}, steps);
        return {json.dumps(cases)}.map(([method, options, formulas]) => {{
          const [value, gradient] = plane(formulas);
          const points = walk(method, options, (w) => gradient(...w), {STEPS});
          const fitted = walk(method, options, (w, t) => batches[t][1](...w), {fit.steps});
          const losses = fitted.map((w, t) => batches[t][0](...w));
          return [points, points.map((w) => value(...w)), fitted, losses];
        }});""",
        tmp_path,
    )
    assert played["errors"] == []
    assert len(played["found"]) == len(by_name)
    for (method, name), (points, values, fitted, losses) in zip(by_name, played["found"]):
        function = FUNCTIONS[name]
        wanted = follow(method, lambda w, t, f=function: f.gradient(*w), START, STEPS)
        np.testing.assert_allclose(points, wanted, rtol=0, atol=TOLERANCE, err_msg=f"{method}")
        heights = [function.value(*w) for w in wanted]
        np.testing.assert_allclose(values, heights, rtol=1e-9, atol=1e-9)
        wanted = follow(method, fit.gradient, START, fit.steps)
        np.testing.assert_allclose(fitted, wanted, rtol=0, atol=TOLERANCE, err_msg=f"{method}")
        np.testing.assert_allclose(losses, fit.values(wanted), rtol=0, atol=TOLERANCE)


PLACES = [
    {"function": "sphere", "start": [3, 4], "x": [-5, 5], "y": [-5, 5]},
    {"function": "beale", "start": [1, 1.5], "x": [-1, 4], "y": [-2, 2], "scale": "log"},
]
ENTRIES = [
    {"name": "SGD", "method": "SGD", "options": {"learning_rate": 1e-3}, "steps": 12},
    {"name": "Adam", "method": "Adam", "options": {"learning_rate": 0.1}, "steps": 30},
]
FACTS = {"optimizer": "ms_adam.Adam", "same_formula": True, "differences": "", "distance": 1e-7}
FACTS.update(limit=1e-6, share_of_limit=0.1, within_limit=True, distance_to_method=1e-7)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Runs a comparison without MindSpore, puts a path of Adam in float32 beside it, draws no
    pictures, and returns the page."""
    for name in ("contour_plot", "value_plot", "loss_plot"):
        monkeypatch.setattr(trajectories, name, lambda *arguments: b"")

    def write(keys):
        content = run_in(tmp_path, load_keys(tmp_path, keys))
        for row in [row for row in content["results"] if row["optimizer"] == "Adam"]:
            single = np.float32(row["points"]).astype(float).tolist()
            theirs = {"optimizer": "Adam (ms_adam.Adam)", "points": single, "mindspore": FACTS}
            content["results"].append({**row, "computed_by": "ms_adam.Adam, float32", **theirs})
        (tmp_path / study.RESULTS).write_text(json.dumps(content))
        assert trajectories.write_page(tmp_path) == tmp_path / "index.html"
        return (tmp_path / "index.html").read_text(encoding="utf-8")

    return write


@needs_chromium
def test_what_is_moved_moves(written, tmp_path):
    page = written(small(functions=PLACES, optimizers=ENTRIES))
    played = play(
        page,
        """
        const plot = document.getElementById("plot");
        const names = () => plot.data.map((trace) => trace.name);
        const lines = () => plot.data.filter((trace) => trace.mode === "lines");
        const lengths = () => lines().map((trace) => trace.x.length);
        const move = async (id, value) => {
          find(id).value = value;
          find(id).dispatchEvent(new Event("input"));
          find(id).dispatchEvent(new Event("change"));
          await pause(200);
        };
        const click = async (id) => { find(id).click(); await pause(200); };
        const seen = {};
        await pause(500);
        seen.first = [names(), lengths()];
        const eye = () => ["x", "y", "z"].map((axis) => plot.layout.scene.camera.eye[axis]);
        const box = plot.getBoundingClientRect();
        const mouse = async (type, dx, more) => {
          const [x, y] = [box.left + box.width / 2 + dx, box.top + box.height / 2];
          const event = { clientX: x, clientY: y, bubbles: true, cancelable: true, ...more };
          const kind = type === "wheel" ? WheelEvent : MouseEvent;
          document.elementFromPoint(x, y).dispatchEvent(new kind(type, event));
          await pause(50);
        };
        seen.eyes = [eye()];
        await mouse("mousedown", 0, { buttons: 1 });
        for (const dx of [10, 20, 30, 40]) await mouse("mousemove", dx, { buttons: 1 });
        await mouse("mouseup", 40);
        await pause(200);
        seen.eyes.push(eye());
        for (let i = 0; i < 5; i++) await mouse("wheel", 0, { deltaY: 200 });
        await pause(500);
        seen.eyes.push(eye());
        await move("step", 7);
        seen.eyes.push(eye());
        seen.step = [lengths(), find("at").textContent, find("value-1").textContent];
        await click("float32");
        seen.without_float32 = names();
        await click("on-0");
        seen.without_sgd = names();
        await click("on-0");
        await click("float32");
        seen.sliders = [...document.querySelectorAll("#numbers input")].map((it) => it.id);
        await move("learning_rate", 0.5);
        await move("beta1", 2);
        seen.changed = [scene.lines[1].changed, path(scene.lines[1]).points, names()];
        await click("reset");
        seen.reset = ["changed" in scene.lines[1], names()];
        await move("scene", "beale");
        seen.beale = [names(), lengths(), plot.layout.scene.zaxis.title.text];
        seen.formula = find("formula").textContent;
        await move("beta2", 1);
        seen.on_beale = [scene.lines[1].changed, path(scene.lines[1]).points];
        await click("play");
        await pause(300);
        seen.played = Number(find("step").value);
        return seen;
        """,
        tmp_path,
        width=400,
    )
    assert played["errors"] == [] and played["loaded"] == [] and played["width"] <= 400
    seen = played["found"]
    adams = "Adam (ms_adam.Adam)"
    everything = ["f", "SGD", "SGD, step", "Adam", "Adam, step", adams]
    assert seen["first"] == [everything, [13, 31]]  # whole paths
    assert seen["step"][:2] == [[8, 8], "step 7 of 30"]
    first, turned, zoomed, kept = np.array(seen["eyes"])
    sizes = np.linalg.norm([first, turned, zoomed], axis=1)
    assert np.abs(turned - first).max() > 0.05 and abs(sizes[1] - sizes[0]) < 1e-6
    assert abs(sizes[2] - sizes[1]) > 0.05 and (kept == zoomed).all()  # what is turned stays so
    assert seen["without_float32"] == everything[:-1]
    assert seen["without_sgd"] == ["f", "Adam", "Adam, step"]
    assert seen["sliders"] == ["learning_rate", "beta1", "beta2"]
    options, points, names = seen["changed"]
    assert options["learning_rate"] == pytest.approx(0.1 * 10**0.5, rel=1e-12)
    assert options["beta1"] == pytest.approx(0.99, rel=1e-12) and options["beta2"] == 0.999
    wanted = follow(reference.Adam(**options), gradient_of("sphere"), [3, 4], 30)
    np.testing.assert_allclose(points, wanted, rtol=0, atol=TOLERANCE)
    assert names == everything[:-1]  # MindSpore's path is not that of the changed numbers
    assert seen["reset"] == [False, everything]
    names, lengths, label = seen["beale"]
    assert names == everything and lengths == [8, 8] and label == "log10(1 + f)"
    assert seen["formula"].startswith("beale: (1.5 - x + xy)² + ")
    options, points = seen["on_beale"]
    assert options["beta2"] == pytest.approx(0.9, rel=1e-12)
    wanted = follow(reference.Adam(**options), gradient_of("beale"), [1, 1.5], 30)
    np.testing.assert_allclose(points, wanted, rtol=0, atol=TOLERANCE)
    assert 7 < seen["played"] <= 30
    with np.errstate(all="ignore"):
        f = FUNCTIONS["sphere"].value(
            *follow(reference.Adam(0.1), gradient_of("sphere"), [3, 4], 7)[-1]
        )
    assert float(seen["step"][2].split()[-1]) == pytest.approx(f, rel=1e-3)  # three digits


def gradient_of(name):
    return lambda w, t: FUNCTIONS[name].gradient(*w)


@needs_chromium
def test_a_linear_fit_moves_too(written, tmp_path):
    keys = linear()
    keys["optimizers"] = [{"name": "Adam", "method": "Adam", "options": {"learning_rate": 0.1}}]
    page = written(keys)
    played = play(
        page,
        """
        await pause(500);
        find("beta1").value = 0;
        find("beta1").dispatchEvent(new Event("input"));
        await pause(300);
        const line = document.getElementById("plot").data[1];
        return [path(scene.lines[0]).points, line.name, line.x.length];
        """,
        tmp_path,
    )
    assert played["errors"] == [] and played["loaded"] == []
    points, name, length = played["found"]
    fit = Fit(LinearFit(**keys["linear_fit"]))
    wanted = follow(reference.Adam(0.1, beta1=0.0), fit.gradient, [0, 0], fit.steps)
    np.testing.assert_allclose(points, wanted, rtol=0, atol=TOLERANCE)
    assert (name, length) == ("Adam", fit.steps + 1)


def test_the_largest_page_is_below_6_mb(written):
    """As surfaces.yaml: seven functions, six optimizers, 300 steps, MindSpore beside each."""
    names = [name for name in FUNCTIONS if name != "sphere"]
    places = [{**PLACES[0], "function": name, "start": [0.3, -0.4]} for name in names]
    entries = [{**ENTRIES[1], "name": f"Adam{i}", "steps": 600} for i in range(6)]
    page = written(small(functions=places, optimizers=entries))
    assert len(page.encode("utf-8")) < 6_000_000
    for address in ("src=", 'href="http', "@import"):
        assert address not in page.split("<script>")[0]


def test_own_functions_have_no_sliders(written, tmp_path):
    (tmp_path / "own_bowl.py").write_text("def bowl(x, y): return x**2 + y**2\n")
    page = written(small(functions=[{**PLACES[0], "function": "own_bowl:bowl"}]))
    data = page.split('id="data">')[1].split("</script>")[0]
    (scene,) = json.loads(data)["scenes"]
    assert scene["function"] == [] and scene["lines"][0]["options"] is None
