"""Checkpoints: any layout and backend into any other, from `nn.Adam`, and clean refusals."""

import binascii
import functools
import os
import pickle
import re
import zipfile

import mindspore as ms
import numpy as np
import pytest
from foreign_checkpoints import renamed, state_of, torch_state_dict, without_maxima
from mindspore import Tensor, amp, nn
from running import (
    ALL_BACKENDS,
    as_tensors,
    copy_values,
    make_parameters,
    snapshot,
    to_numpy,
    unchanged,
)
from running import adam as adam_of

import ms_adam
from ms_adam import checkpoint as checkpoint_module
from ms_adam import checkpoint_forms as forms
from ms_adam import reference
from ms_adam.checkpoint import crc, slots
from ms_adam.compat import COUNTS_ALL_STEPS, HAS_BFLOAT16, PLAIN_CHECKPOINTS_ONLY, has_shape
from ms_adam.lab.studies.matrix.cases import gradients
from ms_adam.state import ShardLayout, layout_entry

SHAPES = ((2, 3), (), (17,), (0, 2) if has_shape((0, 2)) else (3, 2))
LAYOUTS = [{"backend": backend} for backend in ALL_BACKENDS] + [{"flat_state": True}]


adam = functools.partial(adam_of, SHAPES)
adamw = functools.partial(adam, optimizer=ms_adam.AdamW)
adam_of_three = functools.partial(adam_of, SHAPES[:3])  # nn.Adam refuses empty tensors


def loaded(checkpoint, into=None, **keywords):
    """An optimizer after it has loaded a checkpoint."""
    optimizer = adam() if into is None else into
    ms_adam.load_state(optimizer, checkpoint, **keywords)
    return optimizer


def save(optimizer, path, **options):
    ms.save_checkpoint(optimizer, str(path), **options)
    return path


def read(path, **options):
    return ms.load_checkpoint(str(path), **options)


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def values(parameters):
    return [to_numpy(parameter) for parameter in parameters]


def ours(seed=3):
    """A state after some steps, without maxima."""
    return without_maxima(state_of(SHAPES, seed))


def train(optimizer, start, stop, order=None, seed=0, dtype="float32"):
    """Steps start to stop of one sequence of gradients, the same for every optimizer."""
    shapes = SHAPES if order is not None else [p.shape for p in optimizer.parameters]
    for arrays in gradients(shapes, stop, seed=seed)[start:]:
        tensors, _ = as_tensors(arrays, dtype)
        optimizer(tensors if order is None else tuple(tensors[i] for i in order))


@pytest.mark.parametrize("new", LAYOUTS, ids=str)
@pytest.mark.parametrize("old", LAYOUTS, ids=str)
def test_goes_on_from_any_layout(old, new, mode, tmp_path):
    """5 steps, a checkpoint file, and 5 steps by another optimizer, whose parameters stand in
    another order; bit for bit what that backend makes of moments that it was given."""
    primitive = "primitive" in str((old, new))
    options = {"weight_decay": 0.1}
    if not primitive:
        options.update(use_amsgrad=True, ema_decay=0.9)
    first = adamw(0.1, **options, **old)
    train(first, 0, 5)
    order = (2, 0, 3, 1)
    fresh = make_parameters(SHAPES, "float32")
    second = ms_adam.AdamW([fresh[i] for i in order], 0.1, **options, **new)
    copy_values(first.parameters, second.parameters)
    loaded(save(first, tmp_path / "adam.ckpt"), second)
    assert int(second.global_step) == 5
    train(first, 5, 10)
    train(second, 5, 10, order)
    of_first, of_second = ms_adam.gather_state(first), ms_adam.gather_state(second)
    assert of_second.keys() == of_first.keys()
    of_first.update({parameter.name: parameter for parameter in first.parameters})
    of_second.update({parameter.name: parameter for parameter in second.parameters})
    for name, found in of_second.items():
        if old.get("backend") == new.get("backend") or not primitive:
            np.testing.assert_array_equal(to_numpy(found), to_numpy(of_first[name]))
        elif name.startswith("layer"):
            # MindSpore's kernel has other decay rates, 1.3e-5 off: half that of 5 steps of 0.1
            np.testing.assert_allclose(to_numpy(found), to_numpy(of_first[name]), rtol=0, atol=1e-5)


def test_from_nn_adam_and_back(mode):
    theirs, later = (adam_of_three(0.1, optimizer=nn.Adam) for _ in range(2))
    ours = adam_of_three(0.1, epsilon_hat=True)
    train(theirs, 0, 5)
    for optimizer in (ours, later):
        copy_values(theirs.parameters, optimizer.parameters)
    loaded(theirs.parameters_dict(), ours)
    assert int(ours.global_step) == int(ours.update_count) == 5
    saved = {
        p.name: ms.Parameter(Tensor(p.asnumpy().copy()), p.name) for p in ours.get_parameters()
    }
    not_loaded, _ = ms.load_param_into_net(later, saved)
    assert not not_loaded
    for optimizer in (theirs, ours, later):
        train(optimizer, 0, 5, seed=1)
    expected = values(theirs.parameters)
    for optimizer in (ours, later):
        for found, value in zip(values(optimizer.parameters), expected):
            # 5 steps of 0.1, each 1e-5 off for nn.Adam's powers of beta
            np.testing.assert_allclose(found, value, rtol=0, atol=5e-6)


@pytest.mark.parametrize("new", [{}, {"flat_state": True}], ids=str)
def test_refuses_with_all_names_and_changes_nothing(new):
    source = adam(use_amsgrad=True)
    train(source, 0, 1)
    state = {name: p.asnumpy().copy() for name, p in source.parameters_dict().items()}
    del state["moment1.layer0.weight"]
    state["moment2.layer2.weight"] = np.zeros((18,), np.float32)
    state["moment1.layer2.weight"] = np.zeros((17,), np.int32)
    state["moment1.layer9.weight"] = np.zeros((2,), np.float32)
    optimizer = adam(**new)
    with unchanged(optimizer):
        with pytest.raises(ValueError) as error:
            ms_adam.load_state(optimizer, state)
        with pytest.raises(TypeError, match="path, a dict, or a list of such, but got int"):
            ms_adam.load_state(optimizer, 3)
        with pytest.raises(ValueError, match="list of checkpoints is empty"):
            ms_adam.load_state(optimizer, [])
    for words in (
        "missing: moment1.layer0.weight",
        "not expected: moment1.layer9.weight",
        "not expected: vhat.layer0.weight",
        "moment1.layer2.weight is int32",
        "moment2.layer2.weight has shape (18,), must be (17,)",
    ):
        assert words in str(error.value)


# --- names of other optimizers -----------------------------------------------------------------

OURS, OF_MINDFORMERS = ("moment1", "moment2", "vhat"), ("adam_m", "adam_v")
OF_TORCH = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def powers_after(steps, beta1=0.9, beta2=0.999):
    """What nn.Adam of MindSpore 2.0 holds: products multiplied up in float32."""
    return {
        f"beta{i}_power": np.multiply.reduce(np.full(steps, beta, np.float32))
        for i, beta in ((1, beta1), (2, beta2))
    }


FORMS = {  # names of moments, entries that count, arguments of load_state; all after 7 steps
    "nn.Adam": (OURS, {"global_step": np.int32([7])}, {}),
    "nn.Adam of 2.0": (OURS, {"global_step": np.int32([0]), **powers_after(7)}, {}),
    "MindFormers AdamW": (OF_MINDFORMERS, {"global_step": np.int32([7])}, {}),
    "nn.AdamWeightDecay of 2.0": (OF_MINDFORMERS, {"global_step": np.int32([0])}, {"step": 7}),
    "mint AdamW": (OF_TORCH, {"state_step": np.float32([6])}, {"step": 7}),
    "mint Adam": (OF_TORCH[:2], {"state_step": np.float32([7])}, {"step": 7}),
    "FusedAdamW": (OF_TORCH[:2], {"global_step": np.int32([6])}, {"step": np.int64(7)}),
    "experimental": (OF_TORCH[:2], {"state_step": np.array(7, np.int32)}, {}),
    "no count": (OF_MINDFORMERS, {}, {"step": 7}),
}


def holds(optimizer, state, step):
    """Asserts that the moments, of any layout, are those of a state, and the count."""
    found = snapshot(optimizer)
    for prefix in OURS:
        for parameter, array in zip(optimizer.parameters, getattr(found, prefix) or ()):
            np.testing.assert_array_equal(array, state[f"{prefix}.{parameter.name}"])
    assert int(optimizer.global_step) == int(optimizer.update_count) == step
    np.testing.assert_array_equal(optimizer.beta2_power.asnumpy(), np.float32(0.999**step))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_takes_the_names_of_others(form, flat):
    prefixes, counters, keywords = FORMS[form]
    state = state_of(SHAPES)
    checkpoint = {
        **renamed(state, *prefixes),
        **counters,
        "layer0.weight": "of the network: left alone",
        "learning_rate": np.array(0.5, np.float32),
    }
    optimizer = adam(0.1, flat_state=flat, use_amsgrad=len(prefixes) == 3)
    loaded(checkpoint, optimizer, **keywords)
    holds(optimizer, state, 7)
    assert float(optimizer.learning_rate) == np.float32(0.1)


OPTIMIZERS_OF_MINDSPORE = {
    "nn.Adam": (nn.Adam, "moment1", "moment2", 3),
    "nn.AdamWeightDecay": (nn.AdamWeightDecay, "moments1", "moments2", 3),
}
if hasattr(ms, "mint"):  # came with mindspore.experimental.optim, after 2.0.0
    OPTIMIZERS_OF_MINDSPORE.update(
        {
            "experimental.Adam": (ms.experimental.optim.Adam, *OF_TORCH[:2], 3),
            "experimental.AdamW": (ms.experimental.optim.AdamW, *OF_TORCH[:2], 3),
            "mint.AdamW": (ms.mint.optim.AdamW, *OF_TORCH[:2], 0),  # its steps need Ascend
        }
    )


@pytest.mark.parametrize(
    "make, first, second, steps", OPTIMIZERS_OF_MINDSPORE.values(), ids=OPTIMIZERS_OF_MINDSPORE
)
@pytest.mark.parametrize("prefix", ["", "optim_g"])
def test_takes_what_mindspore_itself_writes(make, first, second, steps, prefix, tmp_path):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    made = adam_of_three(optimizer=make)
    train(made, 0, steps)
    if prefix:
        made.update_parameters_name(prefix)
    path = save(made, tmp_path / "theirs.ckpt")
    optimizer = adam_of_three(optimizer=ms_adam.AdamW)
    if COUNTS_ALL_STEPS or make is nn.Adam:
        loaded(path, optimizer)
    else:
        with pytest.raises(ValueError, match="counts 0 steps, but its moments are not zero"):
            loaded(path, optimizer)
        loaded(path, optimizer, step=steps)
    assert int(optimizer.global_step) == steps
    for ours, theirs in ((optimizer.moment1, first), (optimizer.moment2, second)):
        np.testing.assert_equal(values(ours), values(getattr(made, theirs)))


def unchanged_after(checkpoint, error, says, **keywords):
    """load_state raises, and every Parameter of the optimizer is what it was."""
    optimizer = loaded(ours(seed=4), step=3)
    with unchanged(optimizer), pytest.raises(error, match=f"(?s){says}"):
        loaded(checkpoint, optimizer, **keywords)


def of_form(form, **entries):
    prefixes, counters, _ = FORMS[form]
    return {**renamed(ours(), *prefixes), **counters, **entries}


def number(name, value, least):
    """A count that is none, and its refusal."""
    shown = re.escape(str(np.array(value)))
    says = rf"'{name}' must be one whole number in \[{least}, 2\^31\), but is {shown}"
    return {**of_form("nn.Adam"), name: np.array(value)}, says


ADAM_W = {name: value for name, value in of_form("no count").items() if "v.layer2" not in name}
NO_COUNT = {"global_step": np.zeros(1, np.int32), "beta1_power": np.float32(0)}
# checkpoint, what the message says, and `step` of load_state if it is given
REFUSED = [
    # the count is not told
    (of_form("mint AdamW"), r"state_step is 6: 6 steps .* from 0 .*, 7 of one .* -1.*step="),
    (of_form("FusedAdamW"), r"global_step is 6: 6 steps"),
    (of_form("nn.AdamWeightDecay of 2.0"), "counts 0 steps, but its moments .* zero.*step="),
    (of_form("no count"), "neither a step count nor beta powers.*step="),
    # it is told twice, and differently
    (of_form("nn.Adam"), "step=8 contradicts .* after which 7 steps", 8),
    (of_form("nn.Adam of 2.0"), "step=8 contradicts .* after which 7 steps", 8),
    (of_form("mint AdamW"), "step=8 contradicts .* after which 6 or 7 steps", 8),
    (of_form("no count"), r"'step' must be in \[0, 2\^31\), but got -1", -1),
    # the powers tell no count
    ({**ours(), **NO_COUNT, "beta2_power": np.float32(0)}, "counts 0 steps, but.*step="),
    (
        {**ours(), **NO_COUNT, "beta2_power": np.float32(1e-45)},
        r"beta2_power = 1\.?.*e-45 is that of no number of steps, or of several.*step=",
    ),
    (
        {**ours(), **NO_COUNT, **powers_after(5, 0.9, 0.99)},
        r"beta2_power = 0.95.* is that of no number of steps.*step=",
    ),
    # entries that cannot be read
    *(
        number("global_step", value, -1)
        for value in ([1.5], [np.nan], [1, 2], [-3], [2.0**31], [np.inf], ["7"])
    ),
    number("update_count", [-1], 0),
    number("update_count", [[3, 4]], 0),
    (of_form("nn.Adam", beta1_power=np.ones(3)), r"'beta1_power' must be one .*, but is \[1. 1. 1"),
    (
        {**of_form("nn.Adam"), "adam_m.layer0.weight": np.zeros((2, 3))},
        r"more than one optimizer: adam_m\.\* and moment1\.\*",
    ),
    (
        {**prefixed("g.", ours()), **prefixed("critic.", ours())},
        r"critic\.moment1\.\* and g\.moment1\.\*",
        7,
    ),
    ({**of_form("nn.Adam"), 7: np.ones(3)}, r"keys must be names of entries, but one is 7 \(int\)"),
    (
        of_form("nn.Adam", network={"layer0.weight": np.ones(3)}),
        "entry 'network' must be a Parameter, Tensor or array, but is a dict with 1 entries",
    ),
    (
        of_form("nn.Adam", flat_layout=np.frombuffer(b"{broken", np.uint8)),
        "'flat_layout' is damaged",
    ),
    # the names are those of the checkpoint
    (
        {**ADAM_W, "adam_m.other": np.zeros(3), "adam_v.layer0.weight": np.zeros((3, 2))},
        r"missing: adam_v\.layer2\.weight.*not expected: adam_m\.other.*"
        r"adam_v\.layer0\.weight has shape \(3, 2\), must be \(2, 3\)",
        7,
    ),
    (
        {**renamed(state_of(SHAPES), *OF_TORCH), "state_step": np.array(7)},
        "not expected: max_exp_avg_sq.layer0.weight",
    ),
]


@pytest.mark.parametrize("row", REFUSED, ids=range(len(REFUSED)))
def test_refuses(row):
    checkpoint, says, *step = row
    unchanged_after(checkpoint, ValueError, says, **dict(zip(["step"], step)))


class Owner(nn.Cell):
    """As people write it: both become attributes, and all parameters get their names."""

    def __init__(self, network, optimizer):
        super().__init__()
        self.network, self.optimizer = network, optimizer


@pytest.mark.parametrize(
    "options", [{"use_amsgrad": True}, {"flat_state": True}, {"master_weights": True}], ids=str
)
def test_names_that_an_owner_put_its_own_before(options, tmp_path):
    def make(owned):
        network = nn.Dense(4, 3)
        if "master_weights" in options:
            network.to_float(ms.float16)
            for parameter in network.get_parameters():
                parameter.set_dtype(ms.float16)
        optimizer = ms_adam.Adam(network.trainable_params(), **options)
        return optimizer, Owner(network, optimizer) if owned else None

    old, owner = make(True)
    for i, parameter in enumerate(old.get_parameters()):
        if parameter.dtype in (ms.float16, ms.float32) and parameter.shape:
            ms.ops.assign(parameter, ms.ops.fill(parameter.dtype, parameter.shape, i + 1))
    assert old.moment1[0].name.startswith("optimizer.")
    path = save(owner, tmp_path / "owner.ckpt")
    for owned in (False, True):
        new = loaded(path, make(owned)[0], step=7)
        assert_same_entries(new, entries_of(old))
        assert "moment1.bias" in entries_of(new)
        assert all(value.any() for value in entries_of(new).values())


def entries_of(optimizer):
    names = optimizer.check.names
    return forms.named(optimizer.parameters_dict(), optimizer.formula, names).entries


def assert_same_entries(optimizer, expected):
    found = entries_of(optimizer)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_maxima_that_were_never_written_are_no_state():
    state = renamed(state_of(SHAPES), *OF_TORCH)
    state.update((name, np.zeros_like(state[name])) for name in state if name.startswith("max"))
    holds(loaded({**state, "state_step": np.array(7)}), state_of(SHAPES), 7)


# --- prefixes without a dot ----------------------------------------------------------------------


@pytest.mark.parametrize("there", ["", "optim_g", "gan.optim_g"])
@pytest.mark.parametrize("here", ["", "optim_g", "optim_d"])
@pytest.mark.parametrize("options", [{"use_amsgrad": True}, {"flat_state": True}], ids=str)
def test_any_prefix_there_and_here(options, there, here, tmp_path):
    """MindSpore's GAN tutorial calls update_parameters_name("optim_g")."""

    def make(prefix):
        optimizer = adam(0.1, **options)
        if prefix:
            optimizer.update_parameters_name(prefix)
        return optimizer

    old, new = make(there), make(here)
    train(old, 0, 3)
    path = save(old, tmp_path / "adam.ckpt")
    assert f"{there}global_step" in read(path)
    loaded(path, new)
    assert_same_entries(new, entries_of(old))
    assert len(entries_of(new)) == len(SHAPES) * (3 if "use_amsgrad" in options else 2)
    assert int(new.global_step) == int(new.update_count) == 3


@pytest.mark.parametrize("prefix", ["optimizer.", ""], ids=["MindCV", "mindone"])
def test_averages_that_trainers_keep_beside_an_optimizer(prefix, tmp_path):
    """Their prefix is not the optimizer's, and they have some of what no optimizer updates."""
    averages = {
        f"ema.layer{i}.weight": np.full(shape, i + 2.0, np.float32)
        for i, shape in enumerate(SHAPES)
    }
    statistics = {"ema.bn.moving_mean": np.ones(3, np.float32)}
    theirs = {
        **prefixed(prefix, {**ours(), "global_step": [7]}),
        **averages,
        **statistics,
        "updates": np.array(7.0, np.float32),
    }
    target = tmp_path / "new.ckpt"
    ms_adam.convert_checkpoint(theirs, target, adam(ema_decay=0.9))
    assert statistics.keys() < read(target).keys()
    for source in (theirs, target):
        new = loaded(source, adam(ema_decay=0.9))
        np.testing.assert_equal(values(new.ema), list(averages.values()))
    loaded(theirs)  # one without averages does not need them
    del theirs["ema.layer2.weight"]
    with unchanged(new), pytest.raises(ValueError, match="missing: ema.layer2.weight$"):
        loaded(theirs, new)


def test_the_prefix_chooses_among_two_optimizers():
    states = {"optim_g": ours(seed=5), "optim_d": ours(seed=6)}
    both = {}
    for prefix, state in states.items():
        both.update(prefixed(prefix, {**state, "global_step": np.array([7])}))
    for prefix, state in states.items():
        optimizer = adam()
        optimizer.update_parameters_name(prefix)
        assert_same_entries(loaded(both, optimizer), state)
    unchanged_after(both, ValueError, r"optim_dmoment1\.\* and optim_gmoment1\.\*; give the ent")


# --- two counters --------------------------------------------------------------------------------


@pytest.fixture
def warned(monkeypatch):
    """The warnings of load_state."""
    messages = []
    monkeypatch.setattr(checkpoint_module.log, "warning", messages.append)
    return messages


def counters(optimizer):
    for counter in (optimizer.global_step, optimizer.update_count):
        assert counter.shape == (1,) and counter.dtype == ms.int32
    return int(optimizer.global_step), int(optimizer.update_count)


def mindcv_state(calls, updates, beta1=0.9, beta2=0.999):
    """What MindCV's AdamW writes when it accumulates: global_step counts calls."""
    powers = powers_after(updates, beta1, beta2)
    return {
        **renamed(ours(), "adam_m", "adam_v"),
        "global_step": np.int32([calls]),
        **{name: np.array([power], np.float32) for name, power in powers.items()},
    }


@pytest.mark.parametrize("new", LAYOUTS, ids=str)
def test_both_counters_are_saved_gathered_and_loaded(new, warned, tmp_path):
    """As after mindone, which advances global_step itself, or after load_state from MindCV."""
    old = loaded(mindcv_state(12, 6), adam(0.1), step=6)
    path = save(old, tmp_path / "adam.ckpt")
    gathered = ms_adam.gather_state(old)
    assert gathered["update_count"].asnumpy() == 6 and gathered["global_step"].asnumpy() == 12
    for source in (path, gathered, old.parameters_dict()):
        optimizer = loaded(source, adam(0.1, **new))
        assert counters(optimizer) == (12, 6)
        np.testing.assert_array_equal(optimizer.beta1_power.asnumpy(), np.float32(0.9**6))
    assert not warned


def test_powers_of_another_count_than_global_step(warned):
    optimizer = loaded(mindcv_state(12, 6), adamw())
    assert counters(optimizer) == (12, 6)
    assert len(warned) == 1
    for words in (
        "'AdamW'",
        "global_step is 12",
        "beta1_power = 0.531441 and beta2_power = ",
        "6 updates with beta1=0.9, beta2=0.999",
        "step=6 or step=12",
    ):
        assert words in warned[0]
    np.testing.assert_array_equal(optimizer.beta1_power.asnumpy(), np.float32(0.9**6))
    for step in (6, 12):  # the caller decides
        assert counters(loaded(mindcv_state(12, 6), optimizer, step=step)) == (12, step)
    assert len(warned) == 1
    says = "step=7 contradicts the checkpoint, after which 6 or 12 steps"
    unchanged_after(mindcv_state(12, 6), ValueError, says, step=7)


STILL = {name: np.zeros_like(value) for name, value in ours().items()}
OVER_OURS = {"update_count": [90], "counted_power": np.float32(0.999**90)}
COUNTED = {  # entries beside the moments, and the counters that they make
    "float32": ({"global_step": np.array(7.0, np.float32)}, (7, 7)),
    "float64": ({"global_step": np.array([7.0])}, (7, 7)),
    "int64": ({"global_step": np.array(7)}, (7, 7)),
    "two axes": ({"global_step": np.array([[7]], np.int32)}, (7, 7)),
    "counts from -1, and has made no step": (
        {**STILL, "global_step": [-1], "update_count": [0], **powers_after(0)},
        (0, 0),
    ),
    "accumulates its first gradients": (
        {**STILL, "global_step": [3], "update_count": [0], **powers_after(0)},
        (3, 0),
    ),
    "our release 0.1": ({"global_step": [5], **powers_after(5)}, (5, 5)),
    "a state of nn.Adam that load_param_into_net loaded": (
        {"global_step": [5], "update_count": [0], **powers_after(5)},
        (5, 5),
    ),
    "a state of nn.Adam that load_param_into_net loaded over ours": (
        {**OVER_OURS, "global_step": [5], **powers_after(5)},
        (5, 5),
    ),
    "ours, begun anew as a script would begin nn.Adam anew": (
        {**OVER_OURS, **STILL, "global_step": [0], **powers_after(0)},
        (0, 0),
    ),
    "MindCV's AdamW while the learning rate is fixed": (
        {"global_step": [0], **powers_after(6)},
        (6, 6),
    ),
}


@pytest.mark.parametrize("form", COUNTED)
def test_counters_of_a_checkpoint(form, warned):
    entries, expected = COUNTED[form]
    assert counters(loaded({**ours(), **entries})) == expected and not warned


@pytest.mark.parametrize("dtype, shape", [("float32", (1,)), ("int64", ()), ("float64", ())])
def test_a_global_step_of_another_dtype_and_shape(dtype, shape):
    optimizer = adam()
    optimizer.global_step = ms.Parameter(
        Tensor(np.zeros(shape), getattr(ms, dtype)), name="global_step", requires_grad=False
    )
    for step in (7, 8):
        state = {**ours(), "global_step": np.array([step])}
        for _ in range(2):  # the second time the state that was gathered
            loaded(state, optimizer)
            assert optimizer.global_step.shape == shape
            assert optimizer.global_step.asnumpy() == optimizer.update_count.asnumpy() == step
            state = ms_adam.gather_state(optimizer)


def test_a_state_that_was_loaded_over_ours_goes_on_as_it_would_have():
    theirs = adam_of_three(0.1, optimizer=nn.Adam)
    old, new = (adam_of_three(0.1) for _ in range(2))
    train(old, 0, 3)
    train(theirs, 0, 5)
    theirs.global_step.set_data(Tensor([5], ms.int32))  # 2.0.0 does not count
    ms.load_param_into_net(old, dict(theirs.parameters_dict()))
    loaded(ms_adam.gather_state(old), new)
    copy_values(old.parameters, new.parameters)
    for optimizer in (old, new):
        train(optimizer, 5, 6)
        assert counters(optimizer) == (6, 6)
    np.testing.assert_equal(values(new.parameters), values(old.parameters))


def test_count_of_zero_with_moments_that_are_not(warned):
    state = {**ours(), "update_count": np.int32([0]), "global_step": np.int32([12])}
    unchanged_after(state, ValueError, "counts 0 steps, but its moments are not zero.*step=")
    assert counters(loaded(state, step=6)) == (12, 6) and not warned


# --- what a checkpoint may lack ------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(
    "dtype, masters",
    [("float32", False), ("float16", True)]
    + [("bfloat16", masters) for masters in (True, "split") if HAS_BFLOAT16],
)
def test_averages_and_masters_begin_at_the_weights(dtype, masters, steps):
    """At those of the checkpoint; where it has none, at those of the optimizer. Sums at 0."""
    old, new = (
        adam(0.1, dtype=dtype, **options)
        for options in ({}, {"ema_decay": 0.9, "master_weights": masters, "accumulate_steps": 2})
    )
    train(old, 0, steps, dtype=dtype)
    for source, weights in (
        (ms_adam.gather_state(old), new.parameters),
        (old.parameters_dict(), old.parameters),
    ):
        ms_adam.load_state(new, source)
        copy_values(weights, new.parameters)
        entries = {name: slot.rows for name, slot in slots(new).items()}
        assert counters(new) == (steps, steps)
        for parameter in weights:
            for kind in ("ema", "master_weight") if masters else ("ema",):
                value = entries[f"{kind}.{parameter.name}"]
                np.testing.assert_array_equal(value, to_numpy(parameter))
            assert not entries[f"accumulator.{parameter.name}"].any()


@pytest.mark.parametrize("owned", [(False, True), (True, False), (True, True)])
def test_a_loss_scale_is_found_under_either_name(owned):
    """A Cell that owns an optimizer renames the numbers of the scaler too."""

    def make(owned):
        network, scaler = nn.Dense(4, 3), amp.DynamicLossScaler(1024, 2, 50)
        optimizer = ms_adam.Adam(network.trainable_params(), loss_scale=scaler)
        return scaler, optimizer, Owner(network, optimizer) if owned else None

    (old, source, _), (new, target, _) = map(make, owned)
    old.scale_value.set_data(Tensor(4096.0, ms.float32))
    old.counter.set_data(Tensor(7, ms.int32))
    for checkpoint in (ms_adam.gather_state(source), source.parameters_dict()):
        new.counter.set_data(Tensor(0, ms.int32))
        ms_adam.load_state(target, checkpoint)
        assert (float(new.scale_value), int(new.counter)) == (4096.0, 7)


def test_a_loss_scale_of_two_numbers_is_refused():
    scaler = amp.DynamicLossScaler(1024, 2, 50)
    optimizer = ms_adam.Adam(nn.Dense(4, 3).trainable_params(), loss_scale=scaler)
    state = {**ms_adam.gather_state(optimizer), "scale_value": np.ones(2, np.float32)}
    says = r"scale_value has shape \(2,\), must"
    with unchanged(optimizer), pytest.raises(ValueError, match=says):
        loaded(state, optimizer)


def test_state_is_neither_loaded_nor_saved_within_averaged(tmp_path):
    optimizer = adam(ema_decay=0.9)
    train(optimizer, 0, 2)
    state = ms_adam.gather_state(optimizer)
    with ms_adam.averaged(optimizer), unchanged(optimizer):
        for call in (
            lambda: ms_adam.load_state(optimizer, state),
            lambda: ms_adam.gather_state(optimizer),
            lambda: ms_adam.bitsandbytes_state(optimizer),
            lambda: ms_adam.convert_checkpoint(state, tmp_path / "new.ckpt", optimizer),
        ):
            with pytest.raises(RuntimeError, match=r"For 'Adam', within averaged\(\) the weights"):
                call()
    ms_adam.load_state(optimizer, state)


# --- torch -------------------------------------------------------------------------------------

NAMES = [f"layer{i}.weight" for i in range(len(SHAPES))]


@pytest.mark.parametrize("names", [NAMES, dict(enumerate(NAMES))], ids=["list", "dict"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_takes_a_state_dict_of_torch(names, amsgrad):
    state = state_of(SHAPES)
    of_torch = torch_state_dict(state, 7, len(SHAPES), amsgrad)
    holds(loaded(of_torch, adamw(use_amsgrad=amsgrad), names=names), state, 7)


def test_torch_goes_on_as_algorithm_1(mode):
    """One step of ours from torch's state is the reference's: torch computes Algorithm 1."""
    state, step = state_of(SHAPES), 7
    parameters = make_parameters(SHAPES, "float32")
    before = [to_numpy(parameter) for parameter in parameters]
    optimizer = ms_adam.Adam(parameters, 0.1)
    ms_adam.load_state(optimizer, torch_state_dict(state, step, len(SHAPES)), names=NAMES)
    gradient = gradients(SHAPES, 1)[0]
    _, fed = optimizer(as_tensors(gradient, "float32")[0]), as_tensors(gradient, "float32")[1]
    rate = float(np.float32(0.1))
    adam = reference.Adam(learning_rate=rate)
    for i, (parameter, weight) in enumerate(zip(parameters, before)):
        moment1, moment2 = (state[f"moment{k}.layer{i}.weight"].astype(float) for k in (1, 2))
        expected, _ = adam.step(weight, fed[i], reference.AdamState(step, moment1, moment2, None))
        # One rounding of the weight, and some ten of the update, in which the two terms of the new
        # first moment may cancel: the update as large as it would be without that.
        largest = (0.9 * np.abs(moment1) + 0.1 * np.abs(fed[i])) / (1 - 0.9 ** (step + 1))
        second = (0.999 * moment2 + 0.001 * fed[i] ** 2) / (1 - 0.999 ** (step + 1))
        bound = 2.0**-24 * (np.abs(expected) + 10 * rate * largest / np.sqrt(second))
        assert (np.abs(to_numpy(parameter) - expected) <= bound).all()
        if weight.size:  # and with torch's step forgotten it would be far outside
            wrong, _ = adam.step(weight, fed[i], reference.AdamState(0, moment1, moment2, None))
            assert (np.abs(to_numpy(parameter) - wrong) > 100 * bound).any()


class Unreadable:
    """As a tensor of torch on a GPU, or in bfloat16."""

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def torch(changes):
    """A state_dict whose state was changed: {index: {name: value}}; None stands for nothing."""
    checkpoint = torch_state_dict(state_of(SHAPES), 7, len(SHAPES))
    for index, change in changes.items():
        if isinstance(change, dict):
            entries = {**checkpoint["state"][index], **change}
            change = {name: value for name, value in entries.items() if value is not None}
        checkpoint["state"][index] = change
    return {**checkpoint, "state": {i: v for i, v in checkpoint["state"].items() if v is not None}}


PARAMETERS = "must hold 'param_groups', a list of dicts with the key 'params', .*"
TRAINING = r"whole training, with the entries 'model', 'optimizer', 'epoch', .* Give that: "
STATES = r"checkpoint\['states'\]\[0\] or checkpoint\['states'\]\[1\]"
ONES = np.ones((2, 3), np.float32)


CHANGED = [  # the changes of a state_dict, and what the message says
    ({2: None}, r"missing: exp_avg of 2 \(layer2.weight\)"),
    ({1: {"step": np.array(8.0)}}, "not updated equally often.*layer1.weight: 8"),
    ({i: {"step": None} for i in range(len(SHAPES))}, "holds no 'step'"),
    ({0: {"momentum_buffer": ONES}}, r"not expected: momentum_buffer of 0 \(layer0"),
    ({0: {"max_exp_avg_sq": ONES}}, r"not expected: max_exp_avg_sq of 0 \(layer0"),
    (
        {0: {"exp_avg": ONES.T}},
        r"exp_avg of 0 \(layer0.weight\) has shape \(3, 2\), must be \(2, 3\)",
    ),
    (
        {0: {"exp_avg": Unreadable()}},
        r"'exp_avg of 0 \(layer0.weight\)' must be .* but is a Unreadable .*: can't convert cuda:0",
    ),
    (
        {0: {"step": np.array(7.5)}},
        r"'step of 0 \(layer0.weight\)' must be one whole number in \[0, 2\^31\), but is 7.5",
    ),
    ({1: 3}, "'state', a dict of dicts; reading it ended with TypeError"),
]
WHOLE_TRAININGS = [
    (
        {"model": {"w": 1}, "optimizer": torch({}), "epoch": 3},
        TRAINING + r"checkpoint\['optimizer'\]\.$",
    ),
    ({"state_dict": {"w": 1}, "states": [torch({}), torch({})]}, STATES),
    ({"net": {}, "optimizer": ours()}, r"Give that: checkpoint\['optimizer'\]"),
]
WITHOUT_PARAMETERS = {"state": {}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "checkpoint, names, error, says",
    [
        (torch({}), None, TypeError, "'names' must give their names here, a list of 4"),
        (torch({}), "layer", TypeError, "'names' must be a list or a dict.*str"),
        (torch({}), [*NAMES[:3], 3], TypeError, "must hold strings, but got 3"),
        (ours(), NAMES, TypeError, "'names' is for"),
        (torch({}), NAMES[:3], ValueError, "name the 4 parameters .* but has 3"),
        (torch({}), {0: NAMES[0], 9: "x"}, ValueError, "only in one .*: 1, 2, 3, 9"),
        (torch({}), [*NAMES[:3], NAMES[0]], ValueError, "to two parameters: layer0.weight"),
        (torch({}), [*NAMES[:3], "x"], ValueError, r"not expected: exp_avg of 3 \(x\)"),
        *((torch(changes), NAMES, ValueError, says) for changes, says in CHANGED),
        (WITHOUT_PARAMETERS, NAMES, ValueError, PARAMETERS + "KeyError: 'params'"),
        *((whole, None, ValueError, says) for whole, says in WHOLE_TRAININGS),
        *((whole, NAMES, ValueError, says) for whole, says in WHOLE_TRAININGS),
    ],
)
def test_refuses_what_is_no_state_dict_of_torch(checkpoint, names, error, says):
    unchanged_after(checkpoint, error, says, names=names)


class Malicious:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("load_state unpickled a file",)


def write_torch_file(path, kind):
    """The layouts of torch.save: since torch 1.6 a zip file, before it pickles in a row."""
    if kind == "legacy":
        with open(path, "wb") as file:
            pickle.dump(0x1950A86A20F9469CFC6C, file, protocol=2)  # torch's magic number
            pickle.dump(1001, file, protocol=2)
            pickle.dump(Malicious(), file, protocol=2)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t/data.pkl", pickle.dumps(Malicious(), protocol=2))
        archive.writestr("t/data/0", bytes(100))
        archive.writestr("t/version", "3\n")
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize("kind", ["zip", "cut short", "legacy"])
@pytest.mark.parametrize("name", ["t.pt", "t.ckpt"])
def test_a_file_of_torch_is_named_and_not_unpickled(kind, name, tmp_path):
    write_torch_file(tmp_path / name, kind)
    says = (
        f"{name}: is a file of torch.save, which is not unpickled here. "
        r"Read it with torch.load\(.*state_dict .* names="
    )
    unchanged_after(tmp_path / name, ValueError, says)


def test_other_zip_files_are_no_files_of_torch(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.ckpt", "w") as archive:
        archive.writestr("weights.npy", bytes(100))
    unchanged_after(tmp_path / "t.ckpt", ValueError, "t.ckpt: cannot be read as a checkpoint")


def test_only_our_optimizers_are_loaded():
    theirs = adam_of_three(optimizer=nn.Adam)
    words = "'optimizer' must be an Adam, AdamW or AdaMax of ms_adam, but got Adam of mindspore.nn"
    with pytest.raises(TypeError, match=words):
        ms_adam.load_state(theirs, theirs.parameters_dict())
    with pytest.raises(TypeError, match=words):
        ms_adam.gather_state(theirs)


# --- converted checkpoints ---------------------------------------------------------------------


def resume(optimizer, path):
    """As trainers do: MindFormers, MindCV, mindone."""
    not_loaded, _ = ms.load_param_into_net(optimizer, read(path))
    empty = [p.name for p in optimizer.get_parameters() if 0 in p.shape]
    assert not set(not_loaded) - set(empty) - {"learning_rate"}


def assert_converts(source, path, options, shapes=SHAPES, **keywords):
    """A trainer's resume from the converted file goes on as after load_state, bit for bit."""
    template, expected, fresh = (
        adam_of(shapes, 0.1, optimizer=ms_adam.AdamW, **options) for _ in range(3)
    )
    with unchanged(template):
        ms_adam.convert_checkpoint(source, path, template, **keywords)
    loaded(source, expected, **keywords)
    resume(fresh, path)
    copy_values(fresh.parameters, expected.parameters)
    assert counters(fresh) == counters(expected)
    for optimizer in (expected, fresh):
        train(optimizer, 5, 10, range(len(shapes)))
    entries = {p.name: to_numpy(p) for p in expected.get_parameters()}
    for p in fresh.get_parameters():
        if p.name != "learning_rate":
            np.testing.assert_array_equal(to_numpy(p), entries[p.name])


@pytest.mark.parametrize("new", LAYOUTS, ids=str)
def test_converts_a_file_of_nn_adam_weight_decay(new, mode, tmp_path):
    old = adam_of_three(0.1, optimizer=nn.AdamWeightDecay)
    train(old, 0, 5)
    target = tmp_path / "new.ckpt"
    source = save(old, tmp_path / "old.ckpt", append_dict={"epoch_num": 3, "rate": 0.5})
    written = source.read_bytes()
    assert_converts(source, target, new, SHAPES[:3], step=5)
    assert source.read_bytes() == written
    there, here = read(source), read(target)
    assert int(here["epoch_num"].asnumpy()) == 3 and float(here["rate"].asnumpy()) == 0.5
    assert not any(name.startswith(("adam_m.", "adam_v.")) for name in here)
    for name in set(there) & set(here) - {"global_step"}:
        assert there[name].dtype == here[name].dtype
        np.testing.assert_array_equal(there[name].asnumpy(), here[name].asnumpy())
    assert {"layer0.weight", "learning_rate", "epoch_num", "rate"} <= set(there) & set(here)


WEIGHTS = {f"layer{i}.weight": np.full(shape, 0.25, np.float32) for i, shape in enumerate(SHAPES)}


def shares():
    """The state in two halves, as two ranks with shard_state=True save it."""
    halves = []
    for ranks in ([0, 3], [1, 2]):
        own = [NAMES[i] for i in ranks]
        layout = ShardLayout(
            own, [list(SHAPES[i]) for i in ranks], [0, 0], [int(np.prod(SHAPES[i])) for i in ranks]
        )
        halves.append(
            {
                **{name: it for name, it in ours().items() if name.partition(".")[2] in own},
                "shard_layout": layout_entry(layout),
                "update_count": np.array([7]),
                "global_step": np.array([14]),
                f"rank{ranks[0]}": np.array(0.5),
            }
        )
    halves[0].update(WEIGHTS)
    return halves


SOURCES = {  # all but that of torch with weights
    "MindCV": ({**mindcv_state(12, 6), **WEIGHTS}, {}),
    "MindFormers": ({**of_form("MindFormers AdamW"), **WEIGHTS}, {}),
    "FusedAdamW": ({**of_form("FusedAdamW"), **WEIGHTS}, {"step": 7}),
    "prefixed": (prefixed("optim_g", {**ours(), "global_step": [7], **WEIGHTS}), {}),
    "torch": (torch({}), {"names": NAMES}),
    "shares": (shares(), {}),
}


@pytest.mark.parametrize("new", [{"backend": "composite"}, {"flat_state": True}], ids=str)
@pytest.mark.parametrize("source", SOURCES)
def test_converts_what_load_state_reads(source, new, tmp_path, warned):
    checkpoint, keywords = SOURCES[source]
    assert_converts(checkpoint, tmp_path / "new.ckpt", new, **keywords)
    here, weights = read(tmp_path / "new.ckpt"), list(WEIGHTS.values())
    if source == "torch":
        weights = values(make_parameters(SHAPES, "float32"))
    np.testing.assert_array_equal(here["layer2.weight"].asnumpy(), weights[2])
    lacking = "lacks the weights of 4 of 4 parameters, the first of them 'layer0.weight'"
    assert sum(lacking in message for message in warned) == (source == "torch")
    assert not any(name.startswith(("adam_", "exp_", "optim_g")) for name in here)
    if source == "shares":
        assert "rank0" in here and "rank3" not in here and "rank1" in here
        assert "shard_layout" not in here


def test_converts_to_the_names_of_the_optimizer(tmp_path):
    """A prefix here is in the file; another optimizer's state is left as it is."""
    state = {**ours(), "global_step": np.int32([7])}
    both = {**prefixed("optim_g", state), **prefixed("optim_d", state)}
    optimizer = adam(flat_state=True)
    optimizer.update_parameters_name("optim_g")
    ms_adam.convert_checkpoint(both, tmp_path / "g.ckpt", optimizer)
    here = read(tmp_path / "g.ckpt")
    counts = {"global_step", "update_count", "counted_power", "beta1_power", "beta2_power"}
    flat = {"flat_moment1.float32", "flat_moment2.float32", "flat_layout"}
    expected = {f"optim_g{name}" for name in counts | flat}
    expected |= {p.name for p in optimizer.parameters if p.asnumpy().size}
    assert {name for name in here if name.startswith("optim_g")} == expected
    assert {name for name in here if name not in expected} == {
        name for name in both if name.startswith("optim_d") and both[name].size
    }
    np.testing.assert_array_equal(
        here["optim_dmoment1.layer0.weight"].asnumpy(), state["moment1.layer0.weight"]
    )


@pytest.mark.skipif(PLAIN_CHECKPOINTS_ONLY, reason="MindSpore 2.0.0 writes no safetensors")
def test_converts_to_safetensors(tmp_path):
    optimizer, fresh = (adam() for _ in range(2))
    path = tmp_path / "new.safetensors"
    ms_adam.convert_checkpoint(mindcv_state(7, 7), path, optimizer)
    ms.load_param_into_net(fresh, read(path, format="safetensors"))
    holds(fresh, state_of(SHAPES), 7)


def test_passes_on_what_is_no_state(tmp_path):
    others = {
        "note": "of a run",
        "half.weight": Tensor(np.ones(3), ms.float16),
        "loss_scale": ms.Parameter(Tensor(1024.0, ms.float32), "loss_scale"),
        "mask": np.array([True, False]),
        "count": 3,
    }
    if PLAIN_CHECKPOINTS_ONLY:
        del others["note"]
    else:
        others["schema.weight"] = Tensor(np.ones(3), ms.bfloat16)  # is not "ema."
    path = tmp_path / "new.ckpt"
    ms_adam.convert_checkpoint({**mindcv_state(7, 7), **others}, path, adam())
    here = read(path)
    for name, value in others.items():
        if isinstance(value, str):
            assert here[name] == value
        elif isinstance(value, Tensor):
            assert here[name].dtype == value.dtype
            np.testing.assert_array_equal(to_numpy(here[name]), to_numpy(value))
        else:
            np.testing.assert_array_equal(to_numpy(here[name]), value)


@pytest.mark.skipif(PLAIN_CHECKPOINTS_ONLY, reason="not looked at in MindSpore 2.0.0")
def test_load_param_into_net_takes_moments_for_weights_that_are_missing(tmp_path):
    """Why a converted checkpoint has weights even where its source has none."""
    state = {
        name: ms.Parameter(value, name)
        for name, value in {**ours(), **mindcv_state(7, 7)}.items()
        if not name.startswith("adam_") and value.size
    }
    optimizer, other = (adam() for _ in range(2))
    before = to_numpy(optimizer.parameters[0])
    ms.load_param_into_net(optimizer, state)
    np.testing.assert_array_equal(
        to_numpy(optimizer.parameters[0]), state["moment1.layer0.weight"].asnumpy()
    )
    ms_adam.convert_checkpoint(state, tmp_path / "new.ckpt", other)
    ms.load_param_into_net(other, read(tmp_path / "new.ckpt"))
    np.testing.assert_array_equal(to_numpy(other.parameters[0]), before)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="MindSpore 2.0.0 has no bfloat16")
def test_a_conversion_keeps_the_weights_of_the_source(tmp_path):
    """Though of two as near to a master, the source has one and the optimizer the other."""
    masters, there, here = [1.0 + 2.0**-8, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, -5.0, 7.0]

    def make(weights):
        parameter = ms.Parameter(Tensor(weights, ms.bfloat16), name="w")
        return ms_adam.Adam([parameter], master_weights="split")

    source = {
        "w": Tensor(there, ms.bfloat16),
        "master_weight.w": np.float32(masters),
        **{f"moment{i}.w": np.ones(3, np.float32) for i in (1, 2)},
    }
    ms_adam.convert_checkpoint(source, tmp_path / "new.ckpt", make(here), step=3)
    fresh = make([0.0, 0.0, 0.0])
    ms.load_param_into_net(fresh, read(tmp_path / "new.ckpt"))
    np.testing.assert_array_equal(to_numpy(fresh.parameters[0]), [1.0 + 2.0**-7, 2.0, 3.0])
    np.testing.assert_array_equal(slots(fresh)["master_weight.w"].rows, np.float32(masters))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "entries, target, error, says",
    [
        ({}, "new.pt", ValueError, "For 'Adam', 'target' must end in .ckpt or .safetensors, but"),
        ({}, 3, TypeError, "'target' must be a path, but got int: 3"),
        ({"adam_m.other": 1}, "new.ckpt", ValueError, "For 'Adam', .* not expected: adam_m.other"),
        (
            {"hook": len},
            "new.ckpt",
            TypeError,
            "entry 'hook' must be a Parameter, Tensor, array or str to be saved, but is "
            "builtin_func",
        ),
        (3, "new.ckpt", TypeError, "must be a path, a dict, .* got int: 3"),
        ("none.ckpt", "new.ckpt", FileNotFoundError, "none.ckpt"),
    ],
)
def test_refuses_to_convert_and_writes_nothing(entries, target, error, says, tmp_path):
    source = {**mindcv_state(7, 7), **entries} if isinstance(entries, dict) else entries
    target = tmp_path / target if isinstance(target, str) else target
    (tmp_path / "new.ckpt").write_bytes(b"of before")
    before, optimizer = files(tmp_path), adam()
    with unchanged(optimizer), pytest.raises(error, match=f"(?s){says}"):
        ms_adam.convert_checkpoint(source, target, optimizer)
    assert files(tmp_path) == before


@pytest.mark.parametrize("made", [lambda path: str(path), lambda path: [path, path]])
def test_refuses_to_write_over_the_source(made, tmp_path):
    path, link = saved(tmp_path / "adam.ckpt"), tmp_path / "link.ckpt"
    before, optimizer = files(tmp_path), adam()
    link.symlink_to(path)
    says = "'target' must be another file than 'source', but both are '.*link.ckpt'"
    with pytest.raises(ValueError, match=says):
        ms_adam.convert_checkpoint(made(path), link, optimizer)
    link.unlink()
    assert files(tmp_path) == before


def test_a_conversion_that_is_interrupted_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupted(entries, path, kind):
        with open(path, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    target = tmp_path / "new.ckpt"
    optimizer = adam()
    ms_adam.convert_checkpoint(mindcv_state(7, 7), target, optimizer)
    before = files(tmp_path)
    assert list(before) == ["new.ckpt"]
    monkeypatch.setattr(checkpoint_module, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ms_adam.convert_checkpoint(mindcv_state(8, 8), target, optimizer)
    assert files(tmp_path) == before
    monkeypatch.undo()
    ms_adam.convert_checkpoint(mindcv_state(8, 8), target, optimizer)  # replaces it
    assert int(read(target)["update_count"]) == 8


# --- files -------------------------------------------------------------------------------------


def saved(path, with_crc=False, **options):
    """Writes a file of a state after two steps; returns its path."""
    optimizer = adam()
    train(optimizer, 0, 2)
    if with_crc and not PLAIN_CHECKPOINTS_ONLY:
        options["crc_check"] = True
    save(optimizer, path, **options)
    os.chmod(path, 0o600)  # MindSpore makes it read-only
    if with_crc and PLAIN_CHECKPOINTS_ONLY:  # as later releases do
        content = path.read_bytes()
        path.write_bytes(content + b"crc_num" + binascii.crc32(content).to_bytes(10, "big"))
    return path


@pytest.mark.parametrize("kind", ["plain", "CRC", "safetensors"])
def test_kinds_of_files(kind, tmp_path):
    path = tmp_path / f"adam.{'safetensors' if kind == 'safetensors' else 'ckpt'}"
    if kind == "safetensors" and PLAIN_CHECKPOINTS_ONLY:
        path.write_bytes(b"of another release")
    else:
        saved(path, kind == "CRC", **({"format": kind} if kind == "safetensors" else {}))
    if kind == "plain" or not PLAIN_CHECKPOINTS_ONLY:
        assert int(loaded(path, adam(flat_state=True)).global_step) == 2
    else:
        says = f"{path.name}: MindSpore {ms.__version__} reads no .* {kind}"
        unchanged_after(path, ValueError, says)


def test_every_changed_bit_is_told_where_the_file_has_a_crc(tmp_path):
    path = saved(tmp_path / "adam.ckpt", with_crc=True)
    whole = path.read_bytes()
    assert crc(path) is True

    def crc_without(place):
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << (place % 8)
        path.write_bytes(broken)
        return crc(path)

    marker = len(whole) - 17
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, 8 * marker, 200), *range(8 * (marker + 7), 8 * len(whole))]
    assert [place for place in places if crc_without(place) is not False] == []
    unchanged_after(path, ValueError, "adam.ckpt: is damaged: .*CRC")
    mark = range(8 * marker, 8 * (marker + 7))  # without it the file has no CRC
    assert [place for place in mark if crc_without(place) is not None] == []


@pytest.mark.parametrize("with_crc", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_file_cut_short_is_named(tmp_path, with_crc, share):
    path = saved(tmp_path / "adam.ckpt", with_crc)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    unchanged_after(path, ValueError, "adam.ckpt: cannot be read as a checkpoint.*|missing: ")


def test_file_that_is_not_there_is_named(tmp_path):
    unchanged_after(tmp_path / "none.ckpt", FileNotFoundError, "none.ckpt")
