"""Comparing two trainings: the distances, the judgement, the config, and whole runs."""

import functools
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from lab.run.changed_configs import refusal, write
from mindspore import Parameter, Tensor, nn
from mindspore.experimental import optim

from ms_adam import reference
from ms_adam.lab import targets
from ms_adam.lab.errors import ExperimentError, UserError
from ms_adam.lab.run import config as run_config
from ms_adam.lab.run.processes import WorkerError
from ms_adam.lab.studies.compare import factories, judge, run
from ms_adam.lab.studies.compare.checks import (
    DIFFERENCE,
    FACTOR,
    NUDGES,
    WINDOW,
    Checks,
    Nudges,
    check_updates,
)
from ms_adam.lab.studies.compare.config import Comparison, Side, Tolerance
from ms_adam.lab.studies.compare.distances import Distances
from ms_adam.lab.studies.compare.network import Network
from ms_adam.lab.studies.compare.recipe import Recipe, Rounding, recipe_of
from ms_adam.lab.studies.compare.record import Record, RecordWriter
from ms_adam.lab.studies.compare.sides import _check_gradients, _Pass

ROOT = Path(__file__).parents[4]
CONFIGS = ROOT / "configs"
load_comparison = functools.partial(run_config.load, form=Comparison)
STEPS = 4
NAMES = ["w", "b"]
QUANTITIES = ["loss", "gradient", "moment1", "parameter"]


# ---- the judgement


def distances(**different):
    """Distances of two parameters in STEPS steps: equal, but in {quantity: first step}."""
    found = Distances.empty(NAMES, QUANTITIES, STEPS)
    for quantity, step in different.items():
        found.tables[quantity][:, step - 1 :] = 1e-9
    return found


def checks(**beyond):
    """Checks with differences of 0.25 of their bounds, but for {quantity: {step: (w, b)}}."""
    found = Checks.empty(NAMES, QUANTITIES, STEPS)
    for table in found.tables.values():
        table[:] = np.reshape([0.25, 1.0, 1e4], (3, 1, 1))
    for quantity, steps in beyond.items():
        for step, shares in steps.items():
            found.tables[quantity][DIFFERENCE, step - 1] = shares
    return found


def judged(of_one, of_other, free=None, tolerance=None, **more):
    free = free or distances(gradient=1)
    allowed = Tolerance(**dict.fromkeys(Tolerance.model_fields, tolerance))
    return judge.judge({"A": of_one, "B": of_other}, free, allowed, "A", **more)


def test_equal_and_held():
    assert judged(checks(), checks(), distances()).status == judge.EQUAL
    held = judged(checks(), checks(moment1={3: (0.1, 0.5)}))
    assert (held.status, held.first, held.cause) == (judge.HELD, None, None)
    assert "the first moment of b of “B” comes nearest, in step 3, with 0.5 of" in held.sentence


def test_equal_sides_that_are_wrong_in_the_same_way_do_not_part():
    found = judged(checks(moment1={2: (3, 0)}), checks(moment1={2: (3, 0)}), distances())
    assert (found.status, found.first) == (judge.EQUAL, None)
    assert "Both are wrong in step 2: from its own state" in found.sentence
    earlier = checks(gradient={1: (3, 0)}, moment1={2: (3, 0)})
    found = judged(earlier, earlier, distances())
    assert "Both are wrong in step 1: at its own weights" in found.sentence


UPDATE = {"parameter": {2: (0.2, 5)}, "gradient": {3: (2, 2)}}
GRADIENT = {"gradient": {2: (2, 0)}, "moment1": {3: (2, 0)}}


@pytest.mark.parametrize(
    "beyond, cause, first, words",
    [
        (
            UPDATE,
            judge.UPDATE,
            (2, "parameter", "b"),
            "in the update, not in the gradient: from its own state and gradient the parameter b",
        ),
        (
            GRADIENT,
            judge.NETWORK,
            (2, "gradient", "w"),
            "in the gradient: at its own weights and on the same batch the gradient of w",
        ),
        (
            {"gradient": {1: (0, 2)}, "moment1": {1: (9, 0)}},
            judge.BOTH,
            (1, "gradient", "b"),
            "both in the gradient and in the update: ",
        ),
        (
            {"loss": {1: 2}, "gradient": {3: (2, 2)}},
            judge.ONLY_LOSS,
            (1, "loss", None),
            "only in the loss: at its own",
        ),
        (
            {"loss": {2: 2}, "moment1": {2: (9, 0)}},
            judge.BOTH,
            (2, "loss", None),
            "both in the loss and in the update: ",
        ),
        ({"moment1": {4: (np.nan, 0)}}, judge.UPDATE, (4, "moment1", "w"), "the first moment of w"),
    ],
)
@pytest.mark.parametrize("wrong", ["A", "B"])
def test_cause(beyond, cause, first, words, wrong):
    of_both = [checks(**beyond), checks()]
    found = judged(*(of_both if wrong == "A" else of_both[::-1]))
    assert (found.status, found.cause) == (judge.PARTED, cause)
    assert (found.first.step, found.first.quantity, found.first.parameter) == first
    assert found.first.side == wrong and f"of “{wrong}” differs" in found.sentence
    assert f"“A” and “B” part in step {first[0]}, " in found.sentence and words in found.sentence


@pytest.mark.parametrize(
    "tolerance, share, status",
    [
        (None, 1.01, judge.PARTED),
        (None, 0.99, judge.HELD),
        (1e-3, 9.0, judge.HELD),  # a thousandth of a size of 1e4 is 10
        (1e-3, 11.0, judge.PARTED),
        (1e-5, 1.01, judge.PARTED),  # the bound stays where it is more
        (0, 0.25, judge.PARTED),  # not even roundings
    ],
)
def test_limits_are_bounds_or_the_tolerance(tolerance, share, status):
    found = judged(checks(), checks(gradient={2: (0, share)}), tolerance=tolerance)
    assert found.status == status
    if status == judge.HELD:
        assert ("differ by no more than roundings" in found.sentence) == (share <= 1)
    if tolerance == 0:
        assert found.cause == judge.ROUNDINGS and "the tolerance of 0 allows none" in found.sentence


def test_another_batch_is_told():
    found = judged(checks(), checks(gradient={2: (0, 2)}), other_batch=2)
    assert "The batch of step 2 is another one." in found.sentence


# ---- the checks


def test_bound_of_a_gradient_by_hand():
    """The largest effect of recent nudges, and roundings of the largest element so far."""
    nudges, here = Nudges(2.0**-24), [np.array([1.0, 0.0, -0.5])]
    for step in range(3 * WINDOW):
        nudges.begin(step, [here if step else [4 * here[0]]])
        nudges.add(here, here + np.array([0.0, 2e-6 if step == 2 else 1e-6, 0.0]))
        found = nudges.bound(0, here[0], ["float32"] * 2)
        effects = np.array([0.0, 2e-6 if 2 <= step < 2 * WINDOW else 1e-6, 0.0])
        roundings = FACTOR * 4 * 2.0**-24 + 2 * 2.0**-24 * np.abs(here[0])
        np.testing.assert_allclose(found, FACTOR * effects + roundings, rtol=1e-12)
    wide = nudges.bound(0, here[0], ["bfloat16", "float32"])
    assert wide[0] > 2.0**-8 > wide[2] > wide[1]


def test_shares_that_cancel_are_bounded():
    """Of a linear network whose targets are large: no nudge of a weight is of their size."""
    random = np.random.default_rng(0)
    x, y = (random.standard_normal(shape).astype(np.float32) for shape in ((32, 8), 32))
    x, y = np.concatenate([x, -x]), np.float32(1000) * np.concatenate([y, y])
    weights = random.standard_normal(8).astype(np.float32)

    def gradient(weights, at=slice(None)):
        return x[at].T @ (x[at] @ weights - y[at]) / np.float32(len(x[at]))

    here, halves = gradient(weights), [gradient(weights, at) for at in np.split(np.arange(64), 2)]
    nudged = gradient(np.nextafter(weights, random.choice([-9, 9], 8).astype(np.float32)))
    difference = np.abs((halves[0] + halves[1]) * np.float32(0.5) - here)
    shares = {}
    for ranks, given in ((1, [here]), (2, halves)):
        nudges = Nudges(2.0**-24, ranks)
        nudges.begin(0, [[one] for one in given])
        nudges.add([here], [nudged])
        shares[ranks] = np.max(difference / nudges.bound(0, here, ["float32"] * 2))
    assert shares[2] < 1 < shares[1]


def written(folder, initial, steps, scalars, batches=0, **facts):
    """A record of one parameter in float32, from its arrays in each step."""
    dtypes = {quantity: ["float32"] for quantity in steps[0]}
    before = {quantity: [array] for quantity, array in initial.items()}
    writer = RecordWriter(folder, ["w"], dtypes, len(steps), before, 10)
    for step, arrays in enumerate(steps):
        for quantity, array in arrays.items():
            writer.write(step, quantity, [np.float32(array)])
    for name, value in scalars.items():
        writer.scalars[name][:] = value
    writer.batches[:] = batches
    writer.close(**facts)
    return Record(folder)


def checked(folder, network, given, has_losses):
    """Gradients of a record, judged by a network that ignores its weights; calls in each step."""
    w, calls = np.ones(2, np.float32), [0] * len(given)
    scalars = {"loss_scale": 1.0, **({"loss": 0.5} if has_losses else {})}
    steps = [{"gradient": gradient, "parameter": w} for gradient in given]
    record = written(folder / "given", {"parameter": w}, steps, scalars, has_losses, ranks=1)

    def gradients():
        for step, gradient in enumerate(network):

            def at(position, step=step, gradient=gradient):
                calls[step] += 1
                return 0.5, [np.float32(gradient)]

            yield 1, at

    run = SimpleNamespace(names=["w"], steps=len(given), gradients=gradients)
    run.initial, run.dtypes = {"parameter": [w]}, lambda: record.dtypes
    run.weight_dtypes = lambda: ["float32"]
    own = SimpleNamespace(scalars=record.scalars)
    found = _check_gradients(lambda: run, record, own, folder / "here", ignore)
    assert ("loss" in found.tables) == has_losses
    return found, calls


ABOVE_ONE = np.nextafter(np.float32(1), np.float32(2))


@pytest.mark.parametrize("lost", [np.inf, np.nan])
@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_where_both_overflow_the_rest_is_judged(tmp_path, lost, tolerance):
    network = [[lost, 1.0]] * 3
    given = [[lost, 1.0], [lost, ABOVE_ONE], [lost, 1.01]]
    shares = checked(tmp_path, network, given, True)[0].shares("gradient", tolerance)
    assert shares[0] == 0 and 0 < shares[1] < 1 < shares[2]


@pytest.mark.parametrize("network, given", [(np.inf, 1.0), (1.0, np.inf), (np.inf, np.nan)])
def test_an_overflow_of_one_is_no_rounding(tmp_path, network, given):
    found, _ = checked(tmp_path, [[network, 1.0]], [[given, 1.0]], True)
    assert found.shares("gradient") == np.inf


@pytest.mark.parametrize("has_losses", [True, False])  # a dump has none
def test_more_nudges_are_made_where_a_fault_is_suspected(tmp_path, has_losses):
    network, wrong = [[1.0, 1.0]] * 4, [[1.0, 1.0], [1.0, 1.0], [1.0, 2.0], [1.0, 1.0]]
    assert checked(tmp_path / "equal", network, network, has_losses)[1] == [1] * 4
    # One call for the gradient, and one nudge; NUDGES more of them in the third step.
    assert checked(tmp_path / "wrong", network, wrong, has_losses)[1] == [2, 2, 2 + NUDGES, 2]


def recorded(folder, moments, method, weights, gradients):
    """A record of one parameter in float32, made by a method in float64 and rounded."""
    state, w, steps = method.init(weights), np.asarray(weights, np.float32), []
    initial = {"parameter": w, "moment1": state.moment1, "moment2": state.moment2}
    for gradient in gradients:
        w, state = method.step(w, gradient, state)
        w = w.astype(np.float32)
        state = state._replace(moment1=np.float32(state.moment1), moment2=np.float32(state.moment2))
        shown = {"moment1": state.moment1, "moment2": state.moment2} if moments else {}
        steps.append({"gradient": gradient, **shown, "parameter": w})
    scalars = {"learning_rate": 1e-3, "weight_decay": 0.0, "loss_scale": 1.0}
    facts = {"recipe": Recipe([reference.Adam()]).plain(), "updates": 0}
    return written(folder, initial, steps, scalars, rounds=Rounding(float32_scalars=False), **facts)


@pytest.mark.parametrize("moments", [True, False])
@pytest.mark.parametrize("wrong", [{}, {"beta2": 0.9989}, {"beta1": 0.8984375}, {"eps": 1e-7}])
def test_updates_are_held_to_a_recipe_also_without_moments(tmp_path, moments, wrong):
    random = np.random.default_rng(0)
    gradients = random.standard_normal((30, 8)).astype(np.float32) * np.float32(1e-2)
    # Small weights, so that their own rounding hides nothing.
    weights = random.standard_normal(8) * 1e-3
    record = recorded(tmp_path / "r", moments, reference.Adam(**wrong), weights, gradients)
    found = check_updates(record, record)
    assert set(found.tables) == {"parameter", *(("moment1", "moment2") if moments else ())}
    beyond = max(found.shares(quantity).max() for quantity in found.tables)
    assert (beyond > 1) == bool(wrong)


# ---- the config


def small(**changes):
    config = yaml.safe_load((CONFIGS / "compare_own.yaml").read_text())
    config["factory"] = f"{ROOT / 'examples' / 'compare_own.py'}:make"
    config["training"] = {"steps": STEPS, "batch_size": 8, "seed": 1}
    config.update(changes)
    return {key: value for key, value in config.items() if value is not None}


def load(folder, config):
    return load_comparison(write(folder, config))


def side(**more):
    return {"mode": "graph", "optimizer": "ms_adam.Adam", **more}


def test_the_configs_here_are_sound():
    mnist = load_comparison(CONFIGS / "compare.yaml")
    assert [pair.sides[1] for pair in mnist.all_pairs][:2] == ["ours, pynative", "nn.Adam"]
    own = load_comparison(CONFIGS / "compare_own.yaml")
    assert own.factory == f"{ROOT / 'examples' / 'compare_own.py'}:make"
    allowed = own.tolerance_of(own.all_pairs[0])
    assert allowed.of("gradient") == 0 and not allowed.asks_equal("gradient")


def test_without_pairs_the_first_is_compared_with_each(tmp_path):
    config = small(sides={name: side() for name in "abc"}, pairs=None)
    assert [p.sides for p in load(tmp_path, config).all_pairs] == [["a", "b"], ["a", "c"]]


def sides(**of_a):
    return {"sides": {"a": side(**of_a), "b": side()}, "pairs": None}


def problem(**more):
    return {
        "factory": None,
        "factory_options": {},
        "problem": {"hidden": [4], "train": 20, **more},
        "sides": {"graph": side(), "pynative": side()},
    }


def of_sides(*names, **more):
    return {"pairs": [{"sides": list(names), **more}]}


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"colour": 1}, ["unknown key 'colour'", "title, problem, factory"]),
        (sides(rate=1), ["unknown key 'sides.a.rate'", "mode, optimizer, options"]),
        (
            problem(factory="a:b"),
            [
                "unknown key 'problem.factory'; allowed here: hidden, train",
                "'factory' is not a key of 'problem'; it belongs at the top level",
            ],
        ),
        ({"options": {}}, ["'options' is not a key of the top level; it belongs under 'sides.*'"]),
        (sides(steps=3), ["'steps' is not a key of 'a'; it belongs under 'training'"]),
        ({"loss": 1}, ["it belongs under 'problem' or under 'pairs.*.tolerance' or"]),
        ({"sides": {"a": side()}, "pairs": None}, ["sides", "at least 2"]),
        (sides(mode="eager"), ["sides.a.mode = 'eager'", "'graph' or 'pynative'"]),
        (sides(options={"eps": "1e-8"}), ["sides.a.options.eps = '1e-8'", "write 1.0e-8"]),
        (
            sides(ranks=3),
            ["sides.a.ranks = 3", "training.batch_size = 8 it must be one of 1, 2, 4, 8"],
        ),
        (sides(ranks=0), ["sides.a.ranks = 0", "greater than or equal to 1"]),
        (sides(dtype="int8"), ["sides.a.dtype = 'int8'", "float16"]),
        (of_sides("graph", "grahp"), ["no side 'grahp'", "graph, pynative"]),
        (of_sides("graph", "graph"), ["'graph' is compared with itself"]),
        (
            of_sides("graph", "pynative", tol=1),
            ["unknown key 'pairs.0.tol'", "sides, tolerance, must_hold"],
        ),
        ({"tolerance": -1}, ["tolerance.loss = -1", "greater than or equal to 0"]),
        ({"tolerance": {"weights": 1}}, ["unknown key 'tolerance.weights'", "loss, gradient"]),
        ({"factory": None}, ["either 'problem'", "neither is"]),
        ({"problem": {"hidden": [4], "train": 20}}, ["either 'problem'", "both are"]),
        (
            {**problem(), **sides(changes={"hidden": [1]})},
            ["sides.a.changes: unknown key 'hidden'"],
        ),
        (
            {**problem(), **sides(changes={"loss": "l1"})},
            ["sides.a.changes.loss = 'l1'", "'fused' or 'cross_entropy'"],
        ),
    ],
)
def test_wrong_config_is_refused_in_words(tmp_path, changes, parts):
    said = refusal(tmp_path, small(**changes), load_comparison)
    assert [part for part in parts if part not in said] == []


# ---- whole runs: each takes some processes of MindSpore


def ignore(*_):
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One comparison with a side of every kind, and what it wrote."""
    folder = tmp_path_factory.mktemp("compare")
    # A large eps, so that one step shows where it stands.
    settings = {"options": {"learning_rate": 0.01, "eps": 1e-3}}
    config = small(
        sides={
            "graph": side(**settings),
            "pynative": side(
                **{**settings, "mode": "pynative"}, context={"runtime_num_threads": 1}
            ),
            "other loss": side(**settings, changes={"loss_factor": 1.01}),
            "nn": side(**{**settings, "optimizer": "mindspore.nn.Adam"}),
        },
        pairs=[
            {"sides": ["graph", "pynative"], "tolerance": 0},
            {"sides": ["graph", "other loss"], "must_hold": False},
            {"sides": ["graph", "nn"]},
        ],
        keep_records=True,
    )
    out = folder / "out"
    content = run.compare(load(folder, config), out, ignore)
    return content, out


def test_file_is_what_was_returned(finished):
    content, out = finished
    assert json.loads((out / "compare.json").read_text()) == content
    assert content["schema"] == 1 and content["environment"]["device_target"] == "CPU"
    assert str(ROOT) not in (out / "compare.json").read_text()  # no place of this machine
    assert (out / "records" / "side1" / "gradient.npy").exists()  # keep_records


def test_each_pair_of_processes_is_judged(finished):
    pairs = {pair["sides"][1]: pair for pair in finished[0]["results"][0]["pairs"]}
    assert pairs["pynative"]["status"] == judge.EQUAL
    assert "equal in every bit over 4 steps" in pairs["pynative"]["sentence"]
    causes = (("other loss", judge.NETWORK, "update"), ("nn", judge.UPDATE, "network"))
    for name, cause, innocent in causes:
        found = pairs[name]
        assert (found["status"], found["cause"], found[innocent]) == (judge.PARTED, cause, None)
        assert (found["first"]["step"], found["first"]["side"]) == (1, name)
    checks = pairs["nn"]["checks"]["nn"]["parameter"]
    assert max(np.divide(checks["difference"], checks["bound"])) > 1
    assert run.parted(finished[0]) == [pairs["nn"]]  # the others that part need not hold


def test_scalars_of_a_side(finished):
    content, out = finished
    t = np.arange(1, STEPS + 1)
    sides = {entry["side"]: entry for entry in content["results"][0]["sides"]}
    for entry in (sides["graph"], sides["nn"]):
        # nn.Adam has float32 powers: 1 - beta2^t loses digits, 2^-24 of 0.001 is 6e-5
        np.testing.assert_allclose(entry["c1"], 1 - 0.9**t, rtol=1e-6)
        np.testing.assert_allclose(entry["c2"], np.sqrt(1 - 0.999**t), rtol=1e-4)
        np.testing.assert_allclose(entry["learning_rate"]["most"], 0.01, rtol=1e-7)
        assert sum(entry["non_finite"].values()) == 0
        with np.load(out / entry["file"]) as arrays:
            norms = arrays["gradient_norm"]
        assert norms.shape == (STEPS, 6)
        np.testing.assert_allclose(entry["gradient_norm"], np.sqrt((norms**2).sum(axis=1)))
    assert sides["nn"]["c1"] != sides["graph"]["c1"]


def test_a_side_that_fails_is_told(tmp_path):
    config = small(**sides(options={"rate": 1}), limit_mb=1)
    with pytest.raises(WorkerError) as caught:
        run.compare(load(tmp_path, config), tmp_path / "out", ignore)
    message = str(caught.value)
    assert "the 'a' (training) worker failed: side 'a': ms_adam.Adam refused its" in message
    assert "'rate'" in message and "learning_rate=0.001" in message  # what it has instead
    assert "Traceback" not in message
    assert not (tmp_path / "out" / "records").exists()


# ---- what a process does, in this one


def make(**settings):
    shapes = {"last.weight": (2, 3), "norm.beta": (3,), "last.bias": (2,)}
    parameters = [
        Parameter(Tensor(np.ones(shape, np.float32)), name) for name, shape in shapes.items()
    ]
    return factories.make_optimizer("x", Side(**side(**settings)), parameters)


@pytest.mark.parametrize(
    "wrong, parts",
    [
        ({"optimizer": "mindspore.nn.Adm"}, ["mindspore.nn has no 'Adm'", "did you mean Adam"]),
        (
            {"optimizer": "lab.studies.identify.factories:returns_cell"},
            ["side 'x'", "returned Dense, not an optimizer"],
        ),
        (
            {"optimizer": "mindspore.nn.AdamWeightDecay", "options": {"beta3": 1}},
            ["side 'x'", "beta3", "beta1=0.9"],
        ),
        ({"optimizer": "mindspore.nn.SGD", "backend": "fused"}, ["nn.SGD has no backend"]),
        ({"optimizer": "reference", "backend": "fused"}, ["has no backend"]),
        ({"optimizer": "reference", "options": {"beta3": 1}}, ["side 'x'", "beta3", "beta1"]),
        ({"optimizer": "reference", "options": {"beta1": 2}}, ["refused its options", "beta1"]),
        ({"options": {"beta1": 2.0}}, ["refused its options", "beta1", "2.0"]),
        ({"optimizer": "mindspore.nn.Dense", "options": {"out_channels": 3}}, ["refused"]),
    ],
)
def test_wrong_optimizer_is_refused_in_words(wrong, parts):
    with pytest.raises(UserError) as caught:
        make(**wrong)
    for part in parts:
        assert part in str(caught.value)


def test_an_optimizer_in_a_file_is_taken_from_the_configs_folder(tmp_path):
    changed = small(**sides(optimizer="../mine.py:make"))
    loaded = load(tmp_path, changed)
    assert loaded.sides["a"].optimizer == f"{tmp_path.parent.resolve() / 'mine.py'}:make"
    assert loaded.sides["b"].optimizer == "ms_adam.Adam"
    assert str(tmp_path.parent) not in json.dumps(run._without_folders(loaded))


def test_the_reference_takes_a_list_of_learning_rates_and_clips():
    made = make(
        optimizer="ms_adam.reference.SGD",
        options={"learning_rate": [1.0, 0.5], "max_grad_norm": 2.0},
    )
    gradients = [np.zeros((2, 3)), np.array([0.0, 0.0, 4.0]), np.zeros(2)]
    for expected in (-1.0, -2.0, -3.0):  # 1 - 2, then less 1 each: the last rate stays
        made.step(gradients)
        assert made.state()["parameter"][1][2] == expected


def test_dtype_is_that_of_the_parameters(tmp_path):
    config = small(**sides(dtype="bfloat16"))
    one = _Pass(load(tmp_path, config), "a", tmp_path / "initial.npz")
    kinds = one.dtypes()
    assert set(kinds["parameter"]) == set(kinds["gradient"]) == {"bfloat16"}
    assert set(kinds["moment1"]) == {"float32"}
    for step in one.train():
        for array in (*step.arrays["gradient"], *step.arrays["parameter"]):
            assert not np.any(np.asarray(array, np.float32).view(np.uint32) & 0xFFFF)  # 16 bits
    assert any(np.any(a != b) for a, b in zip(one.initial["parameter"], step.arrays["parameter"]))


@pytest.mark.parametrize(
    "body, part",
    [
        ("return 1, 2", "three things, network, loss and data, but returned tuple of 2"),
        ("return 1, max, []", "must return first a network (mindspore.nn.Cell), but returned int"),
        ("return nn.Dense(1, 1), 3, []", "must return second a loss"),
        ("return nn.Dense(1, 1), max, 3", "must return third data"),
    ],
)
def test_factory_that_returns_something_else(tmp_path, body, part):
    path = tmp_path / "wrong_factory.py"
    path.write_text(f"from mindspore import nn\ndef make(seed, batch_size):\n    {body}\n")
    with pytest.raises(UserError, match=re.escape(part)):
        factories.make(f"{path}:make", 0, 1, {})


def test_factory_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        factories.make(f"{tmp_path}/none.py:make", 0, 1, {})
    with pytest.raises(UserError, match="has no 'mkae'"):
        factories.make("ms_adam.lab.errors:mkae", 0, 1, {})
    own = f"{ROOT / 'examples' / 'compare_own.py'}:make"
    with pytest.raises(UserError, match="unexpected keyword argument 'width'.*units=16"):
        factories.make(own, 0, 1, {"width": 3})


def test_batches_are_gone_through_again_and_one_that_ends_is_told():
    data = [(np.zeros(1), np.zeros(1)), (np.ones(1), np.ones(1))]
    assert [int(x[0][0]) for x, _ in factories.numbered_batches(data, 5)] == [0, 1, 0, 1, 0]
    with pytest.raises(UserError, match="ended after 2 batches and starts only once; 5 steps"):
        list(factories.numbered_batches(iter(data), 5))
    with pytest.raises(UserError, match="gives no batch"):
        list(factories.numbered_batches([], 1))
    with pytest.raises(UserError, match=r"batch 1 of the data must be \(inputs, targets\)"):
        list(factories.numbered_batches([np.zeros(1)], 1))


@pytest.mark.parametrize(
    "limit_mb, words", [(2.39, "1 fit"), (2.41, "2 fit"), (1.5, "not one fits")]
)
def test_record_is_bounded(tmp_path, limit_mb, words):
    dtypes = dict.fromkeys(("gradient", "parameter"), ["float32"])
    initial = {"parameter": [np.zeros(100_000)]}
    # A step, and the state before the first one: 100,000 * 2 quantities * 4 bytes = 0.8 MB.
    with pytest.raises(UserError, match=rf"3 steps of 100,000 elements take 3 MB .*\({words}\)"):
        RecordWriter(tmp_path / "r", ["w"], dtypes, 3, initial, limit_mb)
    assert not (tmp_path / "r").exists()


def bfloat16(values):
    return ((values.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)


def test_first_weights_may_differ_by_their_roundings_only():
    weights = np.geomspace(1e-9, 10, 2000, dtype=np.float32)
    of_dtypes = {
        "float16": weights.astype(np.float16).astype(np.float32),
        "bfloat16": bfloat16(weights),
        "float32": weights,
    }
    starts = {
        dtype: SimpleNamespace(
            names=["w"], dtypes={"parameter": [dtype]}, before=lambda _, w=w: [w]
        )
        for dtype, w in of_dtypes.items()
    }
    for one, other in itertools.permutations(starts, 2):
        run._refuse_other_trainings(one, starts[one], other, starts[other])
    starts["float32"].before = lambda _: [weights * np.float32(1.01)]
    with pytest.raises(
        ExperimentError, match="'bfloat16' and 'float32' start from other weights, in w"
    ):
        run._refuse_other_trainings("bfloat16", starts["bfloat16"], "float32", starts["float32"])


def test_recipe_of_experimental_adamw_is_that_of_each_group():
    a, b, c = (Parameter(Tensor(np.ones(2, np.float32)), name) for name in "abc")
    groups = [
        {"params": [a], "betas": (0.8, 0.99), "amsgrad": True},
        {"params": [b, c], "eps": 1e-6, "maximize": True},
    ]
    recipe = recipe_of(targets.wrap(optim.AdamW(groups, lr=0.1)))
    one = reference.Adam(beta1=0.8, beta2=0.99, amsgrad=True, decoupled=True)
    other = reference.Adam(eps=1e-6, maximize=True, decoupled=True)
    assert recipe.methods == [one, other, other]


def test_other_network_is_refused(tmp_path):
    first = Network(nn.Dense(3, 2), max, tmp_path / "initial.npz")
    again = Network(nn.Dense(3, 2), max, tmp_path / "initial.npz")
    for one, other in zip(first.parameters, again.parameters):  # nn.Dense draws anew: not here
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())
    with pytest.raises(UserError, match="other parameters than the first side: .*weight"):
        Network(nn.Dense(4, 2), max, tmp_path / "initial.npz")
