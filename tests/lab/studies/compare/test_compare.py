"""Comparing two trainings: the distances, the judgement, the config, and whole runs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from ms_adam.lab.errors import UserError
from ms_adam.lab.measure import EQUAL, METRICS
from ms_adam.lab.run.config import ConfigError
from ms_adam.lab.run.processes import WorkerError
from ms_adam.lab.studies.compare import judge, run
from ms_adam.lab.studies.compare.config import Tolerance, load_comparison
from ms_adam.lab.studies.compare.distances import Distances

ROOT = Path(__file__).parents[4]
CONFIGS = ROOT / "configs"
STEPS = 4
RELATIVE, JUDGED = map(list(METRICS).index, ("relative", "judged"))


# ---- the judgement


def distances(**relative):
    """Distances of two parameters in STEPS steps: equal, but for {quantity: {step: (w, b)}}."""
    found = Distances.empty(["w", "b"], ["gradient", "moment1", "parameter"], STEPS)
    for table in found.tables.values():
        table[...] = np.array(EQUAL)[:, None, None]
    for quantity, steps in relative.items():
        for step, values in steps.items():
            found.tables[quantity][RELATIVE : JUDGED + 1, step - 1] = values
            found.tables[quantity][-1, step - 1] = np.not_equal(values, 0)
    return found


def judged(free, replayed, floor=None, tolerance=1e-3):
    floors = (distances(), floor or distances())
    limits = Tolerance(loss=tolerance, gradient=tolerance, moment=tolerance, parameter=tolerance)
    return judge.judge(("A", "B"), free, replayed, floors, limits)


def test_equal_and_held():
    assert judged(distances(), distances()).status == judge.EQUAL
    held = judged(distances(gradient={2: (1e-4, 0)}), distances())
    assert (held.status, held.first, held.cause) == (judge.HELD, None, None)
    words = "gradient comes closest to its limit, in step 2, with 1.0e-4 of at most 0.001"
    assert words in held.sentence


UPDATE = {"parameter": {2: (0.2, 0.5)}, "gradient": {3: (0.1, 0.1)}}
GRADIENT = {"gradient": {2: (0.2, 0)}, "moment1": {2: (0.1, 0)}, "parameter": {2: (0.1, 0)}}
BOTH = {"gradient": {1: (0.2, 0)}, "moment1": {1: (0.2, 0)}}
LOSS = {"loss": {1: 0.5}}


@pytest.mark.parametrize(
    "free, replayed, cause, first, words",
    [
        (
            UPDATE,
            {"parameter": {2: (0.2, 0.4)}},
            judge.UPDATE,
            (2, "parameter", "b"),
            "in the update, not in the gradient: from the same gradients the parameter b",
        ),
        (
            GRADIENT,
            {"gradient": {2: (0.2, 0)}},
            judge.NETWORK,
            (2, "gradient", "w"),  # the first of its step
            "in the gradient: from the same weights and the same batch",
        ),
        (BOTH, BOTH, judge.BOTH, (1, "gradient", "w"), "both in the gradient and in the update: "),
        (  # a later parting is no cause
            {"parameter": {2: (1, 1)}},
            {"gradient": {3: (1, 1)}},
            judge.DRIFT,
            (2, "parameter", "w"),
            "training adds up",
        ),
        (LOSS, LOSS, judge.ONLY_LOSS, (1, "loss", None), "only in the loss: from the same weights"),
    ],
)
def test_cause(free, replayed, cause, first, words):
    found = judged(distances(**free), distances(**replayed))
    assert (found.status, found.cause) == (judge.PARTED, cause)
    assert (found.first.step, found.first.quantity, found.first.parameter) == first
    assert found.first.metrics["relative"] == found.first.relative > 0
    assert f"“A” and “B” part in step {first[0]}, " in found.sentence and words in found.sentence


NONE = {}
WITHIN = {"gradient": {2: (0, 0.2)}}


@pytest.mark.parametrize(
    "free, floor, tolerance, status",
    [
        (WITHIN, NONE, 1e-3, judge.PARTED),
        (WITHIN, {"gradient": {1: (0.3, 0)}}, 1e-3, judge.HELD),
        # a floor that comes later says nothing of an earlier step
        (WITHIN, {"gradient": {3: (0.3, 0)}}, 1e-3, judge.PARTED),
        ({"loss": {1: 1e-9}}, NONE, 0, judge.PARTED),
        ({"gradient": {1: (np.nan, 0)}}, NONE, 1e-3, judge.PARTED),
        ({"moment1": {1: (np.inf, 0)}}, NONE, 1e-3, judge.PARTED),
    ],
)
def test_limits_are_the_tolerance_or_the_noise_floor(free, floor, tolerance, status):
    found = judged(distances(**free), distances(), distances(**floor), tolerance)
    assert found.status == status
    assert status == judge.HELD or found.first.quantity == next(iter(free))


def test_noise_decides_nothing_unless_it_differs_at_equal_gradients():
    free = distances(parameter={2: (1, 0)})
    free.tables["parameter"][JUDGED] = 0
    assert judged(free, distances()).status == judge.HELD  # and not equal
    found = judged(free, distances(parameter={2: (0.5, 0)}))
    assert (found.status, found.cause, found.first.step) == (judge.PARTED, judge.UPDATE, 2)
    assert "in the update, not in the gradient: from the same gradients" in found.sentence


# ---- the config


def small(**changes):
    config = yaml.safe_load((CONFIGS / "compare_own.yaml").read_text())
    config["factory"] = f"{ROOT / 'examples' / 'compare_own.py'}:make"
    config["training"] = {"steps": STEPS, "batch_size": 8, "seed": 1}
    config.update(changes)
    return {key: value for key, value in config.items() if value is not None}


def load(folder, config):
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return load_comparison(path)


def side(**more):
    return {"mode": "graph", "optimizer": "ms_adam.Adam", **more}


def test_the_configs_here_are_sound():
    mnist = load_comparison(CONFIGS / "compare.yaml")
    assert [pair.sides[1] for pair in mnist.all_pairs][:2] == ["ours, pynative", "nn.Adam"]
    own = load_comparison(CONFIGS / "compare_own.yaml")
    assert own.factory == f"{ROOT / 'examples' / 'compare_own.py'}:make"
    assert own.tolerance.gradient == 1e-3


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
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, small(**changes))
    for part in parts:
        assert part in str(caught.value)


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
            "pynative": side(**{**settings, "mode": "pynative"}),
            "other loss": side(**settings, changes={"loss_factor": 1.01}),
            "nn": side(**{**settings, "optimizer": "mindspore.nn.Adam"}),
            "float64": side(**{**settings, "optimizer": "reference"}),
        },
        pairs=[
            {"sides": ["graph", "pynative"], "tolerance": 0},
            {"sides": ["graph", "other loss"], "must_hold": False},
            {"sides": ["graph", "nn"]},
            {"sides": ["float64", "graph"]},
        ],
        keep_records=True,
    )
    out = folder / "out"
    content = run.compare(load(folder, config), out, ignore)
    return content, out


def entry_of(finished, kind, name):
    entries = finished[0]["results"][0][kind]
    return next(e for e in entries if (e["side"] if kind == "sides" else e["sides"]) == name)


def test_file_is_what_was_returned(finished):
    content, out = finished
    assert json.loads((out / "compare.json").read_text()) == content
    assert content["schema"] == 1 and content["environment"]["device_target"] == "CPU"
    assert str(ROOT) not in (out / "compare.json").read_text()  # no place of this machine
    assert (out / "records" / "side1" / "gradient.npy").exists()  # keep_records


def test_modes_are_equal(finished):
    pair = entry_of(finished, "pairs", ["graph", "pynative"])
    assert pair["status"] == judge.EQUAL
    assert "equal in every bit over 4 steps" in pair["sentence"]


def test_other_loss_is_found_in_the_gradient(finished):
    pair = entry_of(finished, "pairs", ["graph", "other loss"])
    assert (pair["status"], pair["cause"]) == (judge.PARTED, judge.NETWORK)
    assert pair["first"]["step"] == 1
    # 1% of the loss, over the larger of the two: 0.01 / 1.01, to a few float32 roundings
    assert pair["replayed"]["loss"]["relative"][0] == pytest.approx(0.01 / 1.01, rel=1e-4)
    for quantity in ("moment1", "moment2", "parameter"):  # of the same gradients
        assert not np.any(pair["replayed"][quantity]["different"])


def test_nn_adam_is_found_in_the_update(finished):
    pair = entry_of(finished, "pairs", ["graph", "nn"])
    assert (pair["status"], pair["cause"]) == (judge.PARTED, judge.UPDATE)
    assert pair["first"]["step"] == 1 and pair["first"]["quantity"] == "parameter"
    assert not np.any(pair["replayed"]["gradient"]["different"])
    assert run.parted(finished[0]) == [pair]  # the others that part need not hold


def test_float64_holds_to_roundings(finished):
    pair = entry_of(finished, "pairs", ["float64", "graph"])
    assert pair["status"] == judge.HELD
    # Parameters below 2 are rounded by at most 2^-24 in each step; the largest way in the first
    # step is at least half a learning rate, in a tensor whose gradient is not all below eps.
    assert 0 < max(pair["replayed"]["parameter"]["relative"]) < STEPS * 2**-24 / 0.005


def test_scalars_of_a_side(finished):
    _, out = finished
    t = np.arange(1, STEPS + 1)
    for name in ("graph", "nn", "float64"):
        entry = entry_of(finished, "sides", name)
        # nn.Adam has float32 powers: 1 - beta2^t loses digits, 2^-24 of 0.001 is 6e-5
        np.testing.assert_allclose(entry["c1"], 1 - 0.9**t, rtol=1e-6)
        np.testing.assert_allclose(entry["c2"], np.sqrt(1 - 0.999**t), rtol=1e-4)
        np.testing.assert_allclose(entry["learning_rate"]["most"], 0.01, rtol=1e-7)
        assert entry["noise_floor"]["parameter"] == 0
        assert sum(entry["non_finite"].values()) == 0
        with np.load(out / entry["file"]) as arrays:
            norms = arrays["gradient_norm"]
        assert norms.shape == (STEPS, 6)
        np.testing.assert_allclose(entry["gradient_norm"], np.sqrt((norms**2).sum(axis=1)))
    assert entry_of(finished, "sides", "nn")["c1"] != entry_of(finished, "sides", "graph")["c1"]


def test_a_side_that_fails_is_told(tmp_path):
    config = small(**sides(options={"rate": 1}), limit_mb=1)
    with pytest.raises(WorkerError) as caught:
        run.compare(load(tmp_path, config), tmp_path / "out", ignore)
    message = str(caught.value)
    assert "the 'a' (first run) worker failed: side 'a': ms_adam.Adam refused its" in message
    assert "'rate'" in message and "learning_rate=0.001" in message  # what it has instead
    assert "Traceback" not in message
    assert not (tmp_path / "out" / "records").exists()


# ---- what a process does, in this one


def make(**settings):
    import mindspore as ms
    from mindspore import Parameter, Tensor

    from ms_adam.lab.studies.compare.config import Side
    from ms_adam.lab.studies.compare.factories import make_optimizer

    shapes = {"last.weight": (2, 3), "norm.beta": (3,), "last.bias": (2,)}
    parameters = [
        Parameter(Tensor(np.ones(s), ms.float32), name=name) for name, s in shapes.items()
    ]
    return make_optimizer("x", Side(**side(**settings)), parameters)


@pytest.mark.parametrize(
    "wrong, parts",
    [
        ({"optimizer": "mindspore.nn.Adm"}, ["mindspore.nn has no 'Adm'", "did you mean Adam"]),
        (
            {"optimizer": "lab.studies.identify.factories.ReturnsNone"},
            ["must return an optimizer", "None"],
        ),
        (
            {"optimizer": "lab.studies.identify.factories:returns_class"},
            ["but returned the class Adam"],
        ),
        ({"optimizer": "lab.studies.identify.factories:returns_cell"}, ["but returned Dense"]),
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
    from ms_adam.lab.studies.compare.sides import _Pass

    config = small(**sides(dtype="bfloat16"))
    one = _Pass(load(tmp_path, config), "a", tmp_path / "initial.npz")
    kinds = one.dtypes()
    assert set(kinds["parameter"]) == set(kinds["gradient"]) == {"bfloat16"}
    assert set(kinds["moment1"]) == {"float32"}
    for step in one.train():
        for array in (*step.arrays["gradient"], *step.arrays["parameter"]):
            assert not np.any(np.asarray(array, np.float32).view(np.uint32) & 0xFFFF)  # 16 bits
    assert any(np.any(a != b) for a, b in zip(one.initial, step.arrays["parameter"]))


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
    from ms_adam.lab.studies.compare.factories import make as make_factory

    path = tmp_path / "wrong_factory.py"
    path.write_text(f"from mindspore import nn\ndef make(seed, batch_size):\n    {body}\n")
    with pytest.raises(UserError, match=re.escape(part)):
        make_factory(f"{path}:make", 0, 1, {})


def test_factory_that_is_not_there(tmp_path):
    from ms_adam.lab.studies.compare.factories import make as make_factory

    with pytest.raises(UserError, match="there is no such file"):
        make_factory(f"{tmp_path}/none.py:make", 0, 1, {})
    with pytest.raises(UserError, match="has no 'mkae'"):
        make_factory("ms_adam.lab.errors:mkae", 0, 1, {})
    own = f"{ROOT / 'examples' / 'compare_own.py'}:make"
    with pytest.raises(UserError, match="unexpected keyword argument 'width'.*units=16"):
        make_factory(own, 0, 1, {"width": 3})


def test_batches_are_gone_through_again_and_one_that_ends_is_told():
    from ms_adam.lab.studies.compare.factories import numbered_batches

    data = [(np.zeros(1), np.zeros(1)), (np.ones(1), np.ones(1))]
    assert [int(x[0][0]) for x, _ in numbered_batches(data, 5)] == [0, 1, 0, 1, 0]
    with pytest.raises(UserError, match="ended after 2 batches and starts only once; 5 steps"):
        list(numbered_batches(iter(data), 5))
    with pytest.raises(UserError, match="gives no batch"):
        list(numbered_batches([], 1))
    with pytest.raises(UserError, match=r"batch 1 of the data must be \(inputs, targets\)"):
        list(numbered_batches([np.zeros(1)], 1))


def test_record_is_bounded(tmp_path):
    from ms_adam.lab.studies.compare.record import RecordWriter

    dtypes = {"gradient": ["float32"], "parameter": ["float32"]}
    with pytest.raises(UserError, match=r"100 steps of 1,000 elements take 1 MB .*\(62 fit\)"):
        # 100 * 1000 * 2 quantities * 4 bytes = 0.8 MB
        RecordWriter(tmp_path / "r", ["w"], dtypes, 100, [np.zeros((10, 100))], 0.5)
    assert not (tmp_path / "r").exists()


def test_other_network_is_refused(tmp_path):
    import mindspore  # noqa: F401  before nn, as in a process of a side
    from mindspore import nn

    from ms_adam.lab.studies.compare.network import Network

    first = Network(nn.Dense(3, 2), max, tmp_path / "initial.npz")
    again = Network(nn.Dense(3, 2), max, tmp_path / "initial.npz")
    for one, other in zip(first.parameters, again.parameters):  # nn.Dense draws anew: not here
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())
    with pytest.raises(UserError, match="other parameters than the first side: .*weight"):
        Network(nn.Dense(4, 2), max, tmp_path / "initial.npz")
