"""Optimizers by name: what is found, built, stepped and read, and what is refused in words."""

import sys
import types

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.experimental import optim

import ms_adam.base
from ms_adam import reference
from ms_adam.lab import targets
from ms_adam.lab.errors import UserError
from ms_adam.narrow import to_bytes
from ms_adam.sharding import Shares
from ms_adam.state import write

OWN = """
import functools

class Holder:
    class Inner:
        pass

    @staticmethod
    def make():
        return "made"

def function():
    import {neighbour}
    return {neighbour}.VALUE

bound = functools.partial(dict, a=1)
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch, request):
    """The name of a module in tmp_path, new in each test, with a package and a neighbour."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    name = "own_" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    (tmp_path / f"{name}.py").write_text(OWN.format(neighbour=f"{name}_neighbour"))
    (tmp_path / f"{name}_neighbour.py").write_text("VALUE = 7\n")
    package = tmp_path / f"{name}_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "module.py").write_text("class It:\n    pass\n")
    (package / "broken.py").write_text("import no_such_package_at_all\n")
    (package / "raises.py").write_text("raise ValueError('at import')\n")
    (package / "exits.py").write_text("raise SystemExit(2)\n")  # as argparse does
    return name


@pytest.mark.parametrize(
    "path, found",
    [
        ("{own}.Holder", "Holder"),
        ("{own}:Holder", "Holder"),
        ("{own}.Holder.Inner", "Inner"),
        ("{own}:Holder.Inner", "Inner"),
        ("{own}:Holder.make", "make"),
        ("{own}:function", "function"),
        ("{own}_package.module.It", "It"),
        ("{own}_package.module:It", "It"),
    ],
)
def test_every_way_to_name_a_callable(own, tmp_path, path, found):
    assert targets.load_callable(path.format(own=own), [tmp_path]).__name__ == found


@pytest.mark.parametrize(
    "path, returned",
    [
        ("{folder}/{own}.py:function", 7),  # it imports its neighbour when it is called
        ("{folder}/{own}.py:Holder.make", "made"),
        ("{own}.bound", {"a": 1}),
    ],
)
def test_a_file_and_a_partial(own, tmp_path, path, returned):
    assert targets.load_callable(path.format(folder=tmp_path, own=own), [tmp_path])() == returned


def test_the_working_directory_comes_after_the_folders(own, tmp_path, monkeypatch):
    folder = tmp_path / "nearer"
    folder.mkdir()
    (folder / f"{own}.py").write_text("class Nearer:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    assert targets.load_callable(f"{own}.Nearer", [folder])
    del sys.modules[own]
    sys.path.remove(str(folder))
    assert targets.load_callable(f"{own}.Holder")


@pytest.mark.parametrize(
    "path, words",
    [
        ("Adam", "names no class or function: write package.module.Class"),
        ("{own}.", "names no class or function"),
        (":f", "'' is not the name of a module"),
        ("{own}:", "'' is not the name of a function or class"),
        ("{own}:1 + 1", "is not the name of a function or class"),
        ("nowhere_at_all:f", "there is no module 'nowhere_at_all' here"),
        ("nowhere_at_all.f", "there is no module 'nowhere_at_all' here"),
        ("mindsporre.nn.Adam", "there is no module 'mindsporre' here; did you mean mindspore"),
        ("{own}_package.modul:It", "there is no module '{own}_package.modul'"),
        ("{own}_package.modul.It", "{own}_package has no 'modul'"),
        ("{own}.Holdr", "{own} has no 'Holdr'; did you mean Holder?"),
        ("{own}:Holder.Innr", "Holder has no 'Innr'; did you mean Inner?"),
        ("{own}:number", "{own}:number is a int, not a class or function"),
        ("{own}_package.module", "is a module, not a class or function"),
        ("{own}_package.broken:f", "ModuleNotFoundError: No module named 'no_such_package_at_all'"),
        ("{own}_package.raises:f", "raises cannot be imported: ValueError: at import"),
        ("{own}_package.exits:f", "exits cannot be imported: SystemExit: 2"),
        ("no_such_file.py:f", "no_such_file.py: there is no such file"),
        ("{folder}/{own}_package/raises.py:f", "raises.py cannot be imported: ValueError: at imp"),
    ],
)
def test_what_is_wrong_is_said(own, tmp_path, path, words):
    with pytest.raises(UserError) as caught:
        targets.load_callable(path.format(folder=tmp_path, own=own), [tmp_path])
    assert words.format(own=own) in str(caught.value)


@pytest.mark.parametrize(
    "value, words", [(None, "None"), (dict, "the class dict"), ((1, 2), "tuple of 2"), (3, "int")]
)
def test_kind_names_what_came_back(value, words):
    assert targets.kind(value) == words


def test_suggestion_ignores_case_and_private_names():
    assert targets.suggestion("adam", ["Adam", "_adam"]) == "; did you mean Adam?"
    assert targets.suggestion("zzz", ["Adam"]) == ""


# --- optimizers at work ------------------------------------------------------------------------

SHAPES = {"last.weight": (2, 3), "norm.beta": (3,), "last.bias": (2,)}
FACTORIES = "lab.studies.identify.factories"


def parameters():
    return [Parameter(Tensor(np.ones(s), ms.float32), name=name) for name, s in SHAPES.items()]


def build(name, options=None, **values):
    return targets.find(name, options).build(parameters(), **values)


@pytest.mark.parametrize(
    "name, options, decays",
    [
        # nn.Adam returns the decay times its loss scale; 'beta' in a name means none
        ("mindspore.nn.Adam", {"weight_decay": 0.1, "loss_scale": 8.0}, [0.1, 0, 0.1]),
        ("ms_adam.AdamW", {"weight_decay": 0.1, "loss_scale": 8.0}, [0.1, 0, 0.1]),
        ("mindspore.nn.AdamWeightDecay", {"weight_decay": 0.1}, [0.1, 0, 0.1]),
        ("mindspore.experimental.optim.AdamW", {"weight_decay": 0.1}, [0.1, 0.1, 0.1]),
        ("ms_adam.reference.Adam", {"weight_decay": 0.1}, [0.1, 0, 0.1]),
        ("mindspore.nn.Adam", {}, [0, 0, 0]),
    ],
)
def test_settings_are_those_that_act(name, options, decays):
    rates, found = build(name, options, learning_rate=0.25).settings()
    np.testing.assert_allclose(found, decays, rtol=1e-7)
    assert rates == [0.25] * 3


@pytest.mark.parametrize(
    "name, options",
    [
        ("ms_adam.Adam", {}),
        ("ms_adam.Adam", {"flat_state": True}),
        ("ms_adam.Adam", {"use_amsgrad": True}),
        ("mindspore.nn.Adam", {}),
        ("mindspore.experimental.optim.Adam", {}),
        ("ms_adam.reference.Adam", {}),
        ("ms_adam.reference.Adam", {"amsgrad": True}),
    ],
)
def test_state_and_corrections_after_two_steps(name, options):
    made = build(name, options)
    gradients = [np.full(s, i + 1.0, np.float32) for i, s in enumerate(SHAPES.values())]
    made.settings()
    made.step(gradients)
    made.step([-g for g in gradients])
    state = made.state()
    for i, g in enumerate(gradients):
        # float32 roundings of 0.9 m + 0.1 g, and of a decay rate in float32 (1.3e-5 of the rest)
        np.testing.assert_allclose(state["moment1"][i], (0.9 * 0.1 - 0.1) * g, rtol=1e-5)
        np.testing.assert_allclose(state["moment2"][i], 0.001999 * g**2, rtol=2e-5)
        assert state["parameter"][i].shape == g.shape
    # experimental.optim keeps buffers for it in any case
    has_maximum = bool({"amsgrad", "use_amsgrad"} & set(options)) or "experimental" in name
    assert ("vhat" in state) == has_maximum
    assert set(made.state_dtypes()) == set(state)
    c1, c2 = made.corrections()
    assert c1 == pytest.approx(0.19, rel=1e-6) and c2 == pytest.approx(0.001999**0.5, rel=1e-4)


def test_corrections_are_of_updates_where_a_trainer_has_moved_the_step():
    made = build("ms_adam.Adam")
    made.step([np.ones(s, np.float32) for s in SHAPES.values()])
    write(made.optimizer.global_step, [100], host=False)
    assert made.corrections()[0] == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize(
    "name, options, made",
    [
        (".Chosen", {}, ms_adam.Adam),
        (":Chosen", {"adamw": True}, ms_adam.AdamW),
        (".Holder.Chosen", {"adamw": True}, ms_adam.AdamW),
        (":Holder.make", {}, ms_adam.Adam),
        (".ByMetaclass", {}, ms_adam.Adam),
        (":with_groups", {"weight_decay": 0.1}, ms_adam.AdamW),
        (":handed_on", {}, ms_adam.Adam),
        (":by_position", {}, ms_adam.Adam),
        (":imports_late", {}, optim.AdamW),
        (".of_class", {}, ms_adam.Adam),
        (":of_function", {}, ms_adam.AdamW),
        (".callable_object", {}, ms_adam.Adam),
        (":of_reference", {}, reference.Adam),
    ],
)
def test_any_callable_that_returns_an_optimizer(name, options, made):
    assert type(targets.find(FACTORIES + name, options).trial().optimizer) is made
    found = build(FACTORIES + name, options)
    assert type(found.optimizer) is made
    assert (found.backend is not None) == issubclass(made, ms_adam.Adam)
    before = found.weights()
    found.step([np.ones(shape, np.float32) for shape in SHAPES.values()])
    assert all(np.all(a != b) for a, b in zip(before, found.weights()))


@pytest.mark.parametrize(
    "name, values, wanted",
    [
        ("mindspore.experimental.optim.Adam", {"learning_rate": 0.5, "beta2": 0.99}, (0.5, 0.99)),
        ("mindspore.nn.Adam", {"learning_rate": 0.5, "beta2": 0.75}, (0.5, 0.75)),
        ("mindspore.nn.RMSProp", {"learning_rate": 0.5, "rho": 0.8, "eps": 1e-6}, (0.5, None)),
    ],
)
def test_values_are_set_by_role_or_by_name(name, values, wanted):
    numbers = build(name, **values).numbers()
    assert (numbers["learning_rate"], numbers.get("beta2")) == wanted
    with pytest.raises(UserError, match="has no argument for momentum_decay"):
        build(name, momentum_decay=0.1)
    assert build("mindspore.nn.SGD", nesterov=True, momentum=0.9).optimizer.nesterov


def test_the_reference_follows_a_list_of_learning_rates_and_clips():
    weights = [np.zeros((2, 3)), np.zeros(3), np.zeros(2)]
    made = targets.NumpyOptimizer(
        reference.SGD(), weights, learning_rates=[1.0, 0.5], max_grad_norm=2.0
    )
    gradients = [np.zeros((2, 3)), np.array([0.0, 0.0, 4.0]), np.zeros(2)]
    for expected in (-2.0, -3.0, -4.0):  # 2, then 1 each: the last rate stays
        made.step(gradients)
        assert made.weights()[1][2] == expected
    assert not weights[1].any()


def test_rates_are_changed_and_state_is_put_back():
    made = build("mindspore.nn.Momentum", learning_rate=0.1, momentum=0.9)
    gradients, saved = [np.ones(s, np.float32) for s in SHAPES.values()], made.save_state()
    made.step(gradients)
    made.set_learning_rate(0.2)
    made.restore_state(saved)
    assert made.settings()[0] == pytest.approx([0.1] * 3)  # the rate is among the state
    made.set_learning_rate(0.2)
    made.step(gradients)
    np.testing.assert_allclose(made.weights()[1], 1 - 0.1 - 0.2, rtol=1e-6)
    assert made.state_bytes() == 4 * sum(map(np.prod, SHAPES.values())) + 12


def test_bytes_of_a_share_are_those_of_its_parameters(monkeypatch):
    """Of the sizes 6, 3 and 2, rank 1 of 2 keeps the state of the last two."""
    shares = Shares.by_parameters(list(SHAPES.values()), rank=1, ranks=2)
    monkeypatch.setattr(ms_adam.base, "shares_of", lambda *_: shares)
    made = build("ms_adam.Adam", {"state_dtype": "int8", "shard_state": True})
    kept = [np.full(3, 0.5, np.float32), np.full(2, -2.0, np.float32)]  # powers of 2 are exact
    for buffer, values in zip(made.optimizer.moment1, kept):
        buffer.set_data(Tensor(to_bytes(values, is_signed=True)))
    np.testing.assert_equal(made.state()["moment1"], kept)


def test_state_of_torch_is_kept_by_parameter():
    parameters = [np.ones(2, np.float32), np.ones(3, np.float32)]
    kept = {size: {"exp_avg": np.full(size, 0.5), "step": 1} for size in (2, 3)}
    state = types.SimpleNamespace(get=lambda parameter, default: kept[len(parameter)])
    made = targets.TorchOptimizer(types.SimpleNamespace(state=state), parameters)
    assert made.state_dtypes() == {"parameter": ["float32"] * 2, "moment1": ["float64"] * 2}
    assert [moment.tolist() for moment in made.state()["moment1"]] == [[0.5] * 2, [0.5] * 3]


def test_an_object_that_is_no_optimizer_is_named():
    with pytest.raises(UserError, match="returned the class Adam, not an optimizer; what is one"):
        build(f"{FACTORIES}:returns_class")
    with pytest.raises(UserError, match="it returned dict"):
        targets.wrap({})
    assert isinstance(targets.wrap(nn.Adam(parameters())), targets.MindSporeOptimizer)


def test_settings_of_mindspore_hold_within_only():
    before = ms.get_context("mode")
    with pytest.raises(ZeroDivisionError), targets.mindspore_context(mode=1 - before):
        assert ms.get_context("mode") == 1 - before
        raise ZeroDivisionError
    assert ms.get_context("mode") == before


def test_bytes_of_quantized_state_of_torch():
    """A table that parameters share counts once, and a tensor that is made of others as these."""

    class Plain:
        def __init__(self, elements, size):
            self.numel, self.element_size = lambda: elements, lambda: size

    class Quantized(Plain):  # says that it is float32, as OptimState8bit of torchao does
        def __init__(self):
            super().__init__(1000, 4)
            self.codes, self.scale = Plain(1000, 1), Plain(4, 4)

        def __tensor_flatten__(self):
            return ["codes", "scale"], None

    table = Plain(256, 4)
    first = {"state1": Plain(1000, 1), "qmap1": table, "step": 3}
    second = {"exp_avg": Quantized(), "qmap1": table}
    made = types.SimpleNamespace(state={0: first, 1: second})
    assert targets.TorchOptimizer(made, []).state_bytes() == 1000 + 1024 + 1000 + 16
