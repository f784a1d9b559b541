"""Paths and linear fits: the configs, the numbers, and callables of a user's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from lab.run.changed_configs import refusal
from lab.studies.trajectories.small_comparison import linear, load_keys, run_in, small

from ms_adam import reference
from ms_adam.lab.errors import ExperimentError, UserError
from ms_adam.lab.problems.functions import FUNCTIONS
from ms_adam.lab.run.config import ConfigError, load
from ms_adam.lab.studies.trajectories import study
from ms_adam.lab.studies.trajectories.config import Comparison
from ms_adam.lab.studies.trajectories.counterparts import counterpart
from ms_adam.lab.studies.trajectories.following import Fit, compare
from ms_adam.lab.studies.trajectories.methods import METHODS, method_at

CONFIGS = Path(__file__).parents[4] / "configs" / "trajectories"
U = 2.0**-53  # a rounding of float64
PLACE, ENTRY = small()["functions"][0], small()["optimizers"][0]


@pytest.fixture
def run(tmp_path):
    """Runs a config of these keys; callables are looked for in tmp_path."""
    return lambda **changes: run_in(tmp_path, load_keys(tmp_path, small(**changes)))


def of_project(name):
    return load(CONFIGS / f"{name}.yaml", Comparison)


# --- the configs of the project ------------------------------------------------------------------


ADAM = reference.Adam(0.2, 0.9, 0.99, 1e-7, "inside")
PUBLISHED = {
    "sphere": {
        "SGD": (reference.SGD(0.2), 20),
        "AdaGrad": (reference.AdaGrad(0.5, 1e-7, "inside"), 50),
        "RMSprop": (reference.RMSProp(0.1, 0.9, 1e-7, "inside"), 50),
        "momentum": (reference.Momentum(0.01, 0.9, "scaled"), 50),
        "Adam, 20 steps": (ADAM, 20),
        "Adam, 70 steps": (ADAM, 70),
    },
    "valley": {
        "SGD": (reference.SGD(0.95), 30),
        "momentum": (reference.Momentum(0.1, 0.9, "scaled"), 30),
        "AdaGrad": (reference.AdaGrad(1.5, 1e-7, "outside"), 30),
        "Adam": (reference.Adam(0.3, 0.9, 0.999, 1e-7, "hat"), 30),
    },
    "linear": {
        "SGD": (reference.SGD(0.01), None),
        "AdaGrad": (reference.AdaGrad(0.1, 1e-7, "inside"), None),
        "RMSprop": (reference.RMSProp(0.1, 0.9, 1e-7, "inside"), None),
        "momentum": (reference.Momentum(0.01, 0.9), None),
        "Adam": (reference.Adam(0.1, 0.9, 0.99, 1e-7), None),
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configs_have_the_published_settings(name):
    config = of_project(name)
    methods = {entry.name: (method_at(entry, CONFIGS), entry.steps) for entry in config.optimizers}
    assert methods == PUBLISHED[name]
    if name == "linear":
        fit = config.linear_fit
        assert (fit.points, fit.weights, fit.noise) == (1000, [0.5, 0.8], 0.01)
        assert (fit.batch_size, fit.epochs, Fit(fit).steps) == (64, 30, 480)
    else:
        (place,) = config.functions
        start, columns = {"sphere": ([3, 4], 3), "valley": ([-7, 2], 2)}[name]
        assert (place.function, place.start) == (name, start)
        assert config.figure.columns == columns


def test_surfaces_has_every_function_and_six_optimizers():
    config = of_project("surfaces")
    assert {place.function for place in config.functions} == set(FUNCTIONS) - {"sphere"}
    assert {entry.method for entry in config.optimizers} == set(METHODS) - {"AdaMax"}
    assert config.figure.animation


# --- paths ---------------------------------------------------------------------------------------


def test_a_path_against_its_closed_form(run):
    """SGD on a quadratic: x_t = 3 (1 - 0.2 0.4)^t, y_t = 4 (1 - 0.2 4)^t."""
    content = run()
    (row,) = content["results"]
    t = np.arange(6)
    wanted = np.column_stack([3 * 0.92**t, 4 * 0.2**t])
    points = np.array([*row["points"], row["end"]])
    # a step makes three roundings of numbers of at most 3 times the weight; and pow its own
    assert (np.abs(points - wanted) <= 10 * 4 * U * (1 + t[:, None])).all()
    assert row["points"][0] == [3, 4] and len(row["points"]) == len(row["values"]) == 5
    assert row["values"][0] == pytest.approx(0.2 * 9 + 2 * 16, rel=4 * U)
    assert (row["function"], row["optimizer"]) == ("sphere", "SGD")
    assert row["outside_from"] is row["not_finite_from"] is row["mindspore"] is None
    assert content["schema"] == 1 and content["environment"]["device_target"] is None


def test_values_are_those_of_the_points(run, tmp_path):
    entries = [
        {"name": name, "method": name, "steps": 7, "options": {"learning_rate": 1e-4}}
        for name in METHODS
    ]
    places = [
        {"function": name, "start": [0.3, -0.4], "x": [-5, 5], "y": [-5, 5]} for name in FUNCTIONS
    ]
    content = run(optimizers=entries, functions=places)
    assert len(content["results"]) == len(METHODS) * len(FUNCTIONS)
    for row in content["results"]:
        f = FUNCTIONS[row["function"]].value
        assert row["values"] == [float(f(*np.array(point))) for point in row["points"]]
        assert row["end_value"] == float(f(*np.array(row["end"])))
    grid = np.linspace(-5, 5, 301)
    with np.load(tmp_path / study.HEIGHTS) as heights:  # the row is y, the column x
        assert list(heights) == list(FUNCTIONS)
        for name, values in heights.items():
            assert values[10, 200] == FUNCTIONS[name].value(grid[200], grid[10])


def test_the_gradient_is_taken_where_nesterov_looks_ahead(run):
    """Sutskever's form is the other one, looked at from w instead of w + rho v."""
    options = {"learning_rate": 0.02, "rho": 0.5}
    entries = [
        {"name": form, "method": "Nesterov", "steps": 9, "options": {**options, "form": form}}
        for form in ("torch", "sutskever")
    ]
    torch, sutskever = run(optimizers=entries)["results"]
    w = np.array([*sutskever["points"], sutskever["end"]])
    lookahead = w[1:] + 0.5 * (w[1:] - w[:-1])
    np.testing.assert_allclose(lookahead[:-1], np.array(torch["points"])[1:], rtol=50 * U)


def test_learning_rate_for_one_function(run):
    slow = {**PLACE, "name": "slow", "learning_rates": {"SGD": 0.1}}
    usual, slower = run(functions=[PLACE, slow])["results"]
    assert usual["points"][1] == [pytest.approx(2.76), pytest.approx(0.8)]
    assert slower["points"][1] == [pytest.approx(2.88), pytest.approx(2.4)]


def test_a_divergent_path_is_kept_with_nulls(run):
    place = {**PLACE, "function": "cubic", "start": [0, -2]}
    content = run(functions=[place], optimizers=[{**ENTRY, "steps": 40}])
    row = json.loads(json.dumps(content["results"][0], allow_nan=False))
    first = row["not_finite_from"]
    assert 0 < row["outside_from"] < first < 40
    values = row["values"]
    assert None not in values[:first] and values[first] is None
    assert row["end"] == [None, None] and row["end_value"] is None and len(values) == 40


def test_mindspore_beside_it(run):
    content = run(mindspore=True)
    ours, theirs = content["results"]
    assert ours["computed_by"] == "NumPy float64" and ours["mindspore"] is None
    assert theirs["optimizer"] == "SGD (mindspore.nn.SGD)"
    assert theirs["computed_by"] == "mindspore.nn.SGD, float32"
    assert theirs["mindspore"]["within_limit"] and theirs["mindspore"]["same_formula"]
    assert theirs["points"][0] == ours["points"][0] and len(theirs["points"]) == 5
    # this path contracts: errors of the gradients' rounding do not grow
    difference = np.abs(np.array(theirs["points"]) - np.array(ours["points"])).max()
    assert 0 < difference <= 2 * theirs["mindspore"]["limit"]
    assert np.array_equal(theirs["points"], np.float32(theirs["points"]))
    assert content["environment"]["device_target"] == "CPU"


def test_a_path_that_stays_at_the_origin_is_within_its_limit(run):
    """Its limit is 0, and so is its distance."""
    content = run(mindspore=True, functions=[{**PLACE, "function": "saddle", "start": [0, 0]}])
    assert content["results"][1]["end"] == [0, 0]
    facts = content["results"][1]["mindspore"]
    assert facts["within_limit"] and facts["limit"] == facts["share_of_limit"] == 0
    moved = np.array([[0.0, 0.0], [1e-30, 0.0]])
    facts = compare(counterpart(reference.SGD()), reference.SGD(), moved, np.zeros((1, 2)))
    assert not facts["within_limit"]


def test_why_nothing_is_beside_it(run):
    entry = {"name": "m", "method": "Momentum", "options": {"form": "ema"}, "steps": 3}
    (row,) = run(mindspore=True, optimizers=[entry])["results"]
    assert row["mindspore"]["optimizer"] is None
    assert "moving average" in row["mindspore"]["reason"]


@pytest.mark.parametrize("mindspore, counted", [(True, range(1, 8)), (False, (3, 7))])
def test_progress_counts_every_step_once(tmp_path, mindspore, counted):
    told = []
    entries = [{**ENTRY, "name": name, "steps": steps} for name, steps in (("a", 3), ("b", 4))]
    config = load_keys(tmp_path, small(optimizers=entries, mindspore=mindspore))
    run_in(tmp_path, config, progress=lambda *what: told.append(what))
    assert told == [("small", "paths", done, 7) for done in counted]


def test_several_configs_write_to_folders_of_their_own(tmp_path):
    told = []
    away = small(
        name="away",
        functions=[{**PLACE, "function": "cubic", "start": [0, -2]}],
        optimizers=[{**ENTRY, "steps": 30}],
    )
    keys = (small(), away, linear())
    keys[2]["name"] = "fit"
    configs = [load_keys(tmp_path, one) for one in keys]
    content = run_in(tmp_path, *configs, tell=told.append)
    assert len(content["results"]) == 3
    assert {path.name for path in study.folders(tmp_path)} == {"small", "away", "fit"}
    assert len(told) == 1 and "cubic, SGD: diverges; not finite from step" in told[0]
    assert "NaN" not in (tmp_path / "away" / study.RESULTS).read_text()


def test_verdicts_are_of_each_optimizer_where_it_is_nearest_to_its_limit():
    def row(function, share):
        facts = {"distance": 1e-7, "limit": 1e-6, "share_of_limit": share, "differences": "d"}
        facts.update(within_limit=share <= 1, distance_to_method=0.5)
        return {"function": function, "optimizer": "SGD (x)", "mindspore": facts}

    rows = [{"mindspore": None}, row("sphere", 0.5), row("valley", 1.5), row("beale", 0.25)]
    (verdict,) = study.verdicts({"results": rows})
    assert verdict["status"] == "not held" and "valley" in verdict["claim"]
    assert verdict["measured"] == "1.0e-7; to the config's formula 5.0e-1: d"


# --- callables of a user's own -------------------------------------------------------------------

OWN = '''
class Sign:
    """Steps of one size."""
    def __init__(self, size=0.5): self.size = size
    def init(self, parameter): return None
    def step(self, parameter, gradient, state):
        import numpy as np
        return parameter - self.size * np.sign(gradient), state

def plane(x, y): return x + 2 * y
def bowl(x, y): return x**2 + y**4
def bowl_slopes(x, y): return 2 * x, 4 * y**3
def wrong_slopes(x, y): return x
def scalar(x, y): return 1.0
def hole(x, y): return x / 0 * y
def shrinking(): return Shrinking()
class Shrinking(Sign):
    def step(self, parameter, gradient, state): return parameter[:1], state
no_callable = 3
'''


@pytest.fixture
def own(tmp_path, request):
    """A module of the user's beside the config; its name is new in each test."""
    name = "own_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def test_own_function_and_optimizer(run, own):
    place = {**PLACE, "start": [1, 1]}
    places = [
        {**place, "function": f"{own}:bowl", "name": "exact", "gradient": f"{own}:bowl_slopes"},
        {**place, "function": f"{own}:bowl"},
    ]
    entries = [
        {"name": "sign", "method": f"{own}:Sign", "options": {"size": 0.25}, "steps": 2},
        {"name": "SGD", "method": "SGD", "options": {"learning_rate": 0.1}, "steps": 2},
    ]
    rows = run(functions=places, optimizers=entries, mindspore=True)["results"]
    by_name = {(row["function"], row["optimizer"]): row for row in rows}
    assert by_name["exact", "sign"]["points"] == [[1, 1], [0.75, 0.75]]
    assert by_name["exact", "sign"]["values"] == [2, 0.75**2 + 0.75**4]
    assert "no method of ms_adam.reference" in by_name["exact", "sign"]["mindspore"]["reason"]
    exact, differences = (
        np.array(by_name[name, "SGD"]["points"]) for name in ("exact", f"{own}.bowl")
    )
    # h^2 f'''/6 with h = 2^-18 and f''' = 24, and roundings near 1e-10, times the learning rate
    assert 0 < np.abs(exact - differences).max() < 0.1 * (2.0**-36 * 4 + 1e-9)


def test_the_name_of_a_file_is_no_path_in_files(run, own, tmp_path):
    file = f"{tmp_path}/{own}.py:bowl"
    (row,) = run(functions=[{**PLACE, "function": file}])["results"]
    assert row["function"].endswith(f".{own}.py.bowl") and "/" not in row["function"]


def test_a_mindspore_optimizer_of_ones_own(run):
    entry = {**ENTRY, "method": "mindspore.nn:SGD", "steps": 4}
    (row,) = run(optimizers=[entry])["results"]
    assert row["computed_by"] == "mindspore.nn.SGD, float32"
    assert row["points"][1] == pytest.approx([2.76, 0.8], rel=4 * 2.0**-24)
    assert row["mindspore"] is None


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"function": "ball"}, "no function 'ball'; there are sphere, valley"),
        ({"function": "{own}:plain"}, "has no 'plain'"),
        ({"function": "{own}:no_callable"}, "not a class or function"),
        ({"function": "{own}:scalar"}, "must give three finite numbers"),
        ({"function": "{own}:hole"}, "must give three finite numbers"),
        ({"function": "{own}:plane", "gradient": "{own}:wrong_slopes"}, "must give .df/dx, df/dy."),
    ],
)
def test_a_function_that_cannot_be_used(run, own, changes, word):
    place = {**PLACE, **{key: name.format(own=own) for key, name in changes.items()}}
    with pytest.raises(UserError, match=word), np.errstate(all="ignore"):
        run(functions=[place])


@pytest.mark.parametrize(
    "method, options, error, word",
    [
        ("Adamm", {}, ConfigError, "no method 'Adamm'; there are AdaGrad, AdaMax, Adam, Momentum"),
        ("Adam", {"lr": 1}, ConfigError, "Adam has no option lr; it has learning_rate"),
        ("Adam", {"beta1": 1.5}, ConfigError, "'beta1' must be a number, at least 0 and less than"),
        ("builtins:dict", {}, ConfigError, "optimizers, SGD: .* has no init"),
        ("mindspore.nn:SGD", {"lr": 1}, ConfigError, "SGD: mindspore.nn:SGD: .* argument 'lr'"),
        ("{own}:shrinking", {}, ExperimentError, "must return weights of shape"),
    ],
)
def test_an_optimizer_that_cannot_be_used(run, own, method, options, error, word):
    entry = {**ENTRY, "method": method.format(own=own), "options": options}
    with pytest.raises(error, match=word):
        run(optimizers=[entry])


# --- configs that cannot be used -----------------------------------------------------------------


FIGURE = small()["figure"]


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"titel": "t"}, "unknown key 'titel'; allowed here: study, name, title, mindspore"),
        (
            {"functions": [{**PLACE, "z": [0, 1]}]},
            "unknown key 'functions.0.z'; allowed here: function, gradient, name",
        ),
        ({"figure": {"panels": "functions"}}, "the key 'figure.columns' is missing"),
        ({"figure": {**FIGURE, "panels": "rows"}}, "figure.panels = 'rows'"),
        ({"functions": []}, "functions = "),
        ({"figure": None}, "the key 'figure' is missing"),
        ({"functions": None}, "give either functions and figure, or linear_fit"),
        ({"optimizers": [{**ENTRY, "steps": None}]}, "the key 'steps' is missing"),
        ({**linear(), "figure": FIGURE, "functions": None}, "figure is for functions"),
        (
            {**linear(), "optimizers": [ENTRY], "functions": None, "figure": None},
            "steps follow from linear_fit.epochs",
        ),
        ({"functions": [PLACE, PLACE]}, "twice there: sphere"),
        ({"optimizers": [ENTRY, ENTRY]}, "twice there: SGD"),
        ({"optimizers": [{**ENTRY, "steps": 0}]}, "optimizers.0.steps = 0"),
        ({"functions": [{**PLACE, "start": [9, 0]}]}, "x goes from -5"),
        ({"functions": [{**PLACE, "x": [1, -1]}]}, "the first number must be less"),
        ({"functions": [{**PLACE, "gradient": "a:b"}]}, "that of 'sphere' is known"),
        ({"functions": [{**PLACE, "learning_rates": {"Adam": 1}}]}, "the optimizers are SGD"),
        (
            {
                "functions": [PLACE, {**PLACE, "name": "b"}],
                "figure": {**FIGURE, "panels": "optimizers"},
            },
            "there are 2",
        ),
        (
            {"figure": {**FIGURE, "animation": {"frames": 1, "seconds": 1}}},
            "figure.animation.frames = 1",
        ),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path, changes, word):
    assert word in refusal(tmp_path, small(**changes), lambda path: load(path, Comparison))


# --- the linear fit ------------------------------------------------------------------------------


def small_fit(tmp_path, **changes):
    return Fit(load_keys(tmp_path, linear(**changes)).linear_fit)


def test_points_are_a_line_and_noise(tmp_path):
    fit = small_fit(tmp_path, points=20000)
    inputs, targets = fit.batches[-1]
    noise = targets - inputs @ [0.5, 0.8]
    assert np.abs(noise).max() <= 0.01 + 2.0**-24 * 10  # targets are rounded to float32
    assert noise.std() == pytest.approx(0.01 / np.sqrt(3), rel=0.02)
    # sums of n numbers of standard deviation 1 are within 5 / sqrt(n) of theirs
    assert np.abs(inputs.mean(axis=0)).max() < 5 / np.sqrt(20000)
    assert np.abs(np.cov(inputs.T) - np.eye(2)).max() < 5 * np.sqrt(2 / 20000)
    assert fit.least_loss == pytest.approx(0.01**2 / 3, rel=0.05)
    assert np.array_equal(inputs, np.float32(inputs))


def test_batches_are_of_all_points_in_each_epoch(tmp_path):
    *plan, (_, targets) = small_fit(tmp_path).batches
    assert [len(of_batch) for _, of_batch in plan] == [32, 32, 32, 4] * 3
    for i in (0, 4, 8):
        assert sorted(np.concatenate([t for _, t in plan[i : i + 4]])) == sorted(targets)


def test_the_gradient_of_the_error_against_differences(tmp_path):
    fit = small_fit(tmp_path)
    w, h = np.array([0.3, -0.2]), 2.0**-20
    for t in (0, 3, fit.steps):
        ways = [(fit.value(w + h * e, t) - fit.value(w - h * e, t)) / (2 * h) for e in np.eye(2)]
        # a quadratic: central differences are exact but for roundings of the loss, terms near 1
        np.testing.assert_allclose(ways, fit.gradient(w, t), atol=100 * U / h)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The linear fit of the project's config, in 3 epochs."""
    config = of_project("linear")
    short = config.linear_fit.model_copy(update={"epochs": 3})
    config = config.model_copy(update={"linear_fit": short})
    return run_in(tmp_path_factory.mktemp("fit"), config)


def test_the_linear_fit_through_mindspore(fitted):
    rows = fitted["results"]
    assert len(rows) == 10 and json.dumps(fitted, allow_nan=False)
    fit = Fit(of_project("linear").linear_fit)
    for ours, theirs in zip(rows[::2], rows[1::2]):
        assert ours["computed_by"] == "NumPy float64"
        assert theirs["optimizer"].startswith(ours["optimizer"] + " (")
        assert theirs["mindspore"]["within_limit"] and theirs["mindspore"]["steps_compared"] == 48
        for row in (ours, theirs):
            assert len(row["points"]) == len(row["values"]) == 48 and len(row["epoch_values"]) == 4
            assert row["epoch_values"][-1] == row["end_value"] == fit.value(np.array(row["end"]))
        for weights, loss, (inputs, targets) in zip(
            theirs["points"], theirs["values"], fit.batches
        ):
            residual = np.abs(inputs @ weights - targets)
            # w . x - y makes 3 roundings of numbers up to |w.x| + |y|, squared: twice the residual;
            # the mean of 64 makes 65 more of the loss
            error = 3 * 2.0**-24 * (np.abs(inputs) @ np.abs(weights) + np.abs(targets))
            allowed = np.mean(2 * residual * error + error**2) + 65 * 2.0**-24 * loss
            assert abs(loss - np.mean(residual**2)) <= allowed


def test_the_linear_fit_in_float64_is_what_the_formula_says(fitted):
    """SGD once more, as a matrix that is applied to the weights."""
    row = fitted["results"][0]
    w = np.zeros(2)
    for (x, y), found in zip(Fit(of_project("linear").linear_fit).batches, row["points"]):
        np.testing.assert_allclose(found, w, atol=48 * 64 * U)
        w = (np.eye(2) - 0.02 * x.T @ x / len(y)) @ w + 0.02 * x.T @ y / len(y)


def test_where_the_linear_fit_is_not_the_same_formula(fitted):
    facts = {row["optimizer"].split(" (")[0]: row["mindspore"] for row in fitted["results"][1::2]}
    other = {name for name, fact in facts.items() if not fact["same_formula"]}
    assert other == {"AdaGrad", "RMSprop"}
    assert facts["RMSprop"]["distance_to_method"] > 0.3  # it starts at 1
    assert facts["AdaGrad"]["distance_to_method"] < 1e-5  # epsilon does not weigh here
