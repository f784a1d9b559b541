"""ms_adam.mint: live groups, schedulers, state_dict, each against float64 and against torch."""

import copy
import dataclasses
import importlib
import io
import pickle
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from running import CompiledStep, copy_values, step_of, to_numpy

import ms_adam
from ms_adam import reference
from ms_adam.lab.studies.matrix.cells import DecayTable

try:
    from mindspore.experimental import optim
except ImportError:
    optim = None
pytestmark = pytest.mark.skipif(optim is None, reason="2.0.0 has no mindspore.experimental.optim")

SHAPES = ((3, 4), (5,), ())
BACKENDS = ("fused", "composite")


def parameters(shapes=SHAPES, size=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Parameter(Tensor(size * rng.standard_normal(shape), ms.float32), name=f"layer{i}.weight")
        for i, shape in enumerate(shapes)
    ]


def gradients(steps, shapes=SHAPES, seed=1):
    rng = np.random.default_rng(seed)
    return [
        [np.asarray(rng.standard_normal(shape), np.float32) for shape in shapes]
        for _ in range(steps)
    ]


def tensors(arrays):
    return tuple(map(Tensor, arrays))


def weights(optimizer):
    return [to_numpy(parameter) for parameter in optimizer.parameters]


def two_groups(own, **second):
    return [{"params": own[:2]}, {"params": own[2:], **second}]


def feed(given, *optimizers):
    """Makes steps; an optimizer of fewer parameters takes the first gradients of each."""
    for arrays in given:
        for optimizer in optimizers:
            optimizer(tensors(arrays[: len(optimizer.parameters)]))


def late(given=(), **options):
    """An AdamW of two of three parameters after some steps, and the group of the third."""
    own = parameters()
    optimizer = ms_adam.mint.AdamW(own[:2], **options)
    feed(given, optimizer)
    return optimizer, {"params": own[2:]}


def counts(optimizer):
    """The number of steps of each parameter."""
    return [float(entry["step"]) for entry in optimizer.state_dict()["state"].values()]


def assert_same(one, other):
    np.testing.assert_equal(weights(one), weights(other))


def assert_goes_on(new, old):
    """One more step of both leaves the same weights."""
    feed(gradients(1, seed=9), old, new)
    assert_same(new, old)


class Shadow:
    """Each parameter by its own float64 reference, whose numbers may change between steps."""

    def __init__(self, optimizer, methods):
        self.optimizer, self.methods = optimizer, list(methods)
        self.weights = weights(optimizer)
        self.states = [m.init(w) for m, w in zip(self.methods, self.weights)]

    def add(self, method):
        self.methods.append(method)
        self.weights.append(weights(self.optimizer)[len(self.weights)])
        self.states.append(method.init(self.weights[-1]))

    def change(self, places, **numbers):
        for i in places:
            self.methods[i] = dataclasses.replace(self.methods[i], **numbers)

    def step(self, arrays):
        for i, gradient in enumerate(arrays):
            self.weights[i], self.states[i] = self.methods[i].step(
                self.weights[i], np.float64(gradient), self.states[i]
            )

    def distance(self):
        pairs = zip(self.weights, weights(self.optimizer))
        return max(np.max(np.abs(a - b)) for a, b in pairs)


# Weights and learning rates here are at most 1. A step rounds the weight once, 2^-24, and takes
# from it an update of at most 10 learning rates with some 20 roundings; lr and decay are float32.
def bound(steps, largest_rate):
    return steps * 2.0**-24 * (1 + 20 * 10 * largest_rate)


# --- groups --------------------------------------------------------------------------------------

CHANGES = {  # of the first group, at step 3: for the optimizer and for the reference
    "lr": ({"lr": 0.05}, {"learning_rate": 0.05}),
    "weight_decay": ({"weight_decay": 0.5}, {"weight_decay": 0.5}),
    "betas": ({"betas": (0.5, 0.9)}, {"beta1": 0.5, "beta2": 0.9}),
    "eps": ({"eps": 0.1}, {"eps": 0.1}),
    "maximize": ({"maximize": True}, {"maximize": True}),
}
NEW_GRAPH = ("betas", "eps", "maximize")  # with backends that do not read formulas


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_are_live(backend, name, compiled, mode):
    """Each change acts on the next step, or is refused; all in one optimizer, one after another."""
    optimizer = getattr(ms_adam.mint, name)(
        two_groups(parameters(), lr=0.02, eps=1e-3), lr=0.01, weight_decay=0.1, backend=backend
    )
    first = reference.Adam(0.01, weight_decay=0.1, decoupled=name == "AdamW")
    shadow = Shadow(
        optimizer, [first, first, dataclasses.replace(first, learning_rate=0.02, eps=1e-3)]
    )
    step = step_of(optimizer, compiled)
    changes = iter(CHANGES.items())
    for t, arrays in enumerate(gradients(2 * len(CHANGES) + 2)):
        if t % 2 and t > 1:
            key, (ours, theirs) = next(changes)
            before = shadow.methods[:], dict(optimizer.param_groups[0])
            if backend == "composite" and compiled and key in NEW_GRAPH:
                with pytest.raises(RuntimeError, match=f"another '{key}' is a change"):
                    optimizer.param_groups[0].update(ours)
                assert optimizer.param_groups[0][key] == before[1][key]
            else:
                optimizer.param_groups[0].update(ours)
                shadow.change([0, 1], **theirs)
                assert shadow.methods != before[0]
        step(tensors(arrays))
        shadow.step(arrays)
        assert shadow.distance() < bound(t + 1, 0.05), t
    assert next(changes, None) is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_change_of_the_learning_rate_or_decay_compiles_nothing(backend, mode, monkeypatch):
    optimizer = ms_adam.mint.AdamW(parameters(), backend=backend)
    step = CompiledStep(optimizer)
    compiled, check = [], type(optimizer.core.check).check
    monkeypatch.setattr(  # it runs while a step is compiled
        type(optimizer.core.check),
        "check",
        lambda self, *given: (compiled.append(1), check(self, *given))[1],
    )
    for t, arrays in enumerate(gradients(4)):
        optimizer.param_groups[0]["lr"] = 1e-3 / (t + 1)
        optimizer.param_groups[0]["weight_decay"] = 0.01 * t
        (step if t % 2 else optimizer)(tensors(arrays))
        if t == 1:
            first = len(compiled)
    assert first > 0
    assert len(compiled) == first


@pytest.mark.parametrize("tail", [{}, {"ema_decay": 0.9, "max_grad_norm": 1.0}])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_that_joins_late_begins_its_own_bias_correction(backend, tail, mode):
    """As in torch. With the count of the others its first step would be 3.2 rates long."""
    own = parameters(((3, 4), (5,), (2,), (7,)))
    optimizer = ms_adam.mint.AdamW(own[:2], lr=0.01, weight_decay=0.1, backend=backend, **tail)
    method = reference.Adam(0.01, weight_decay=0.1, decoupled=True)
    shadow = Shadow(optimizer, [method] * 2)
    given = gradients(9, [parameter.shape for parameter in own])
    for t, arrays in enumerate(given):
        if t == 3:
            group = {"params": own[2], "lr": 0.02}
            if tail:  # refused, and no part of it is left
                with ms_adam.averaged(optimizer), pytest.raises(RuntimeError, match="within avera"):
                    optimizer.add_param_group(group)
            optimizer.add_param_group(group)
            shadow.add(dataclasses.replace(method, learning_rate=0.02))
            averages = {2: shadow.weights[2]}  # begin at the weights
            if tail:
                with ms_adam.averaged(optimizer):
                    np.testing.assert_array_equal(to_numpy(own[2]), shadow.weights[2])
        if t == 6:
            optimizer.add_param_group({"params": own[3:]})
            shadow.add(method)
            averages[3] = shadow.weights[3]
        arrays = arrays[: len(optimizer.parameters)]
        optimizer(tensors(arrays))
        if tail:
            arrays = reference.clip_by_global_norm([np.float64(a) for a in arrays], 1.0)
        shadow.step(arrays)
        assert shadow.distance() < bound(t + 1, 0.02)
        for i in averages if t >= 3 else ():
            averages[i] = averages[i] + 0.1 / (1 - 0.9 ** (t + 1)) * (
                shadow.weights[i] - averages[i]
            )
    assert counts(optimizer) == [9, 9, 6, 3]
    for i in (2, 3) if tail else ():
        assert np.max(np.abs(to_numpy(optimizer.ema[i]) - averages[i])) < bound(9, 0.02)
        assert np.max(np.abs(shadow.weights[i] - averages[i])) > 1e3 * bound(9, 0.02)


def test_a_group_joins_before_the_first_step():
    joined, group = late(lr=0.01, ema_decay=0.9)
    joined.add_param_group(group)
    whole = ms_adam.mint.AdamW(two_groups(parameters()), lr=0.01, ema_decay=0.9)
    feed(gradients(2), joined, whole)
    assert_same(joined, whole)
    np.testing.assert_equal(list(map(to_numpy, joined.ema)), list(map(to_numpy, whole.ema)))


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda group: pickle.loads(pickle.dumps(group))]
)
def test_a_copied_group_is_a_dict(copied):
    optimizer = ms_adam.mint.AdamW(parameters(), lr=0.01)
    group = optimizer.param_groups[0]
    other = copied(group)
    assert type(other) is dict and other.keys() == group.keys()
    assert float(other["lr"]) == float(group["lr"])
    other["betas"] = (0.5, 0.6)
    assert group["betas"] == (0.9, 0.999)


def test_a_compiled_step_is_told_that_it_misses_a_new_group(mode, monkeypatch):
    told, given = [], gradients(1)
    monkeypatch.setattr(ms_adam.mint.log, "warning", told.append)
    optimizer, group = late()
    optimizer.add_param_group(group)
    feed(given, optimizer)  # from Python: it misses nothing
    assert told == []
    optimizer, group = late()
    CompiledStep(optimizer)(tensors(given[0][:2]))
    optimizer.add_param_group(group)
    assert "does not update the new group: compile the step again" in told[0]
    before = weights(optimizer)
    CompiledStep(optimizer)(tensors(given[0]))
    assert all(np.any(a != b) for a, b in zip(before, weights(optimizer)))


WRONG = (
    ("lr", -0.1, ValueError),
    ("lr", float("nan"), ValueError),
    ("lr", "fast", TypeError),
    ("betas", (0.9, 1.0), ValueError),
    ("betas", 0.9, TypeError),
    ("eps", 0.0, ValueError),
    ("weight_decay", -1.0, ValueError),
    ("weight_decay", True, TypeError),
    ("maximize", 1, TypeError),
    ("amsgrad", True, ValueError),
    ("params", [], ValueError),
)


@pytest.mark.parametrize("key, value, error", WRONG)
def test_a_wrong_value_is_refused_and_changes_nothing(key, value, error):
    optimizer, another = late()
    group = optimizer.param_groups[0]
    before, rate = dict(group), float(group["lr"])
    words = {"params": "parameters", "betas": "beta"}
    with pytest.raises(error, match=f"For 'AdamW', .*{words.get(key, key)}"):
        group[key] = value
    assert dict(group) == before
    assert float(group["lr"]) == rate
    if key != "params":
        with pytest.raises(error, match="For 'AdamW'"):
            optimizer.add_param_group({**another, key: value})
    else:
        with pytest.raises(ValueError, match="more than one parameter group"):
            optimizer.add_param_group({"params": [group["params"][1], *another["params"]]})
        with pytest.raises(TypeError, match="must be a dict"):
            optimizer.add_param_group(another["params"])
    assert len(optimizer.param_groups) == len(optimizer.lrs) == 1
    assert len(optimizer.parameters) == len(optimizer.core.parameters) == 2
    optimizer.add_param_group(another)
    feed(gradients(1), optimizer)


def test_arguments_of_the_other_face_are_refused():
    with pytest.raises(KeyError, match="'amsgard': did you mean 'amsgrad'"):
        ms_adam.mint.Adam(parameters(), amsgard=True)
    with pytest.raises(TypeError, match="name the same value"):
        ms_adam.mint.Adam(parameters(), learning_rate=0.1)
    with pytest.raises(TypeError, match="use_amsgrad"):
        ms_adam.mint.Adam(parameters(), use_amsgrad=True)


# --- schedulers ----------------------------------------------------------------------------------


def plateau(t):
    return 1.0 / (1 + t // 9)


SCHEDULERS = {  # arguments, for MindSpore and for torch
    "StepLR": {"step_size": 30, "gamma": 0.5},
    "MultiStepLR": {"milestones": [20, 70], "gamma": 0.3},
    "ConstantLR": {"factor": 0.25, "total_iters": 40},
    "LinearLR": {"start_factor": 0.125, "total_iters": 60},
    "ExponentialLR": {"gamma": 0.98},
    "PolynomialLR": {"total_iters": 80, "power": 2.0},
    "LambdaLR": {"lr_lambda": lambda epoch: 1.0 / (1.0 + 0.125 * epoch)},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 0.97},
    "CosineAnnealingLR": {"T_max": 130, "eta_min": 1e-5},
    "CosineAnnealingWarmRestarts": {"T_0": 10, "T_mult": 2, "eta_min": 1e-5},
    "CyclicLR": {"base_lr": 1e-4, "max_lr": 1e-3, "step_size_up": 8, "step_size_down": 17},
    "ReduceLROnPlateau": {"factor": 0.5, "patience": 3},
    "SequentialLR": None,
}


def scheduler_of(library, name, optimizer):
    if name == "SequentialLR":
        schedulers = [
            library.LinearLR(optimizer, start_factor=0.25, total_iters=20),
            library.ExponentialLR(optimizer, gamma=0.97),
        ]
        return library.SequentialLR(optimizer, schedulers, milestones=[25])
    more = (
        {"cycle_momentum": False} if name == "CyclicLR" and hasattr(library, "OneCycleLR") else {}
    )
    return getattr(library, name)(optimizer, **SCHEDULERS[name], **more)


def test_every_scheduler_has_a_row():
    assert set(optim.lr_scheduler.__all__) - {"LRScheduler"} == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_drives_it_as_torchs_drives_torch(name, mode):
    """100 steps of AdamW with two groups, within 1e-6 of torch in float64.

    Weights are of size 0.1 and move by up to 0.1. The float32 arithmetic of MindSpore's schedulers
    is the largest part of what is left.
    """
    torch = pytest.importorskip("torch", reason="the schedulers of torch are the reference")
    ours = ms_adam.mint.AdamW(two_groups(parameters(), lr=5e-4), lr=1e-3)
    theirs = [torch.nn.Parameter(torch.tensor(w)) for w in weights(ours)]
    torchs = torch.optim.AdamW(two_groups(theirs, lr=5e-4), lr=1e-3, foreach=False)
    schedulers = (
        scheduler_of(optim.lr_scheduler, name, ours),
        scheduler_of(torch.optim.lr_scheduler, name, torchs),
    )
    rates = set()
    for t, arrays in enumerate(gradients(100)):
        ours(tensors(arrays))
        for parameter, array in zip(theirs, arrays):
            parameter.grad = torch.tensor(array, dtype=torch.float64)
        torchs.step()
        for scheduler in schedulers:
            scheduler.step(*([plateau(t)] if name == "ReduceLROnPlateau" else []))
        rates.add(float(ours.param_groups[1]["lr"]))
    distance = max(np.max(np.abs(a - b.detach().numpy())) for a, b in zip(weights(ours), theirs))
    print(name, distance)
    assert distance < 1e-6
    assert len(rates) > 1  # it did drive it


def test_a_scheduler_within_a_compiled_step(mode):
    """Scheduler and optimizer in one function: the same weights as step by step from Python."""
    optimizers = [ms_adam.mint.AdamW(parameters(), lr=0.01) for _ in range(2)]
    schedulers = [optim.lr_scheduler.ExponentialLR(it, gamma=0.5) for it in optimizers]

    @ms.jit
    def step(gradients):
        optimizers[1](gradients)
        schedulers[1].step()
        return True

    for arrays in gradients(4):
        optimizers[0](tensors(arrays))
        schedulers[0].step()
        step(ms.mutable(tensors(arrays)))
    assert_same(*optimizers)
    assert float(optimizers[1].lrs[0]) == float(np.float32(0.01) / 16)


# --- state ---------------------------------------------------------------------------------------

FACES = ("Adam", "AdamW")


def from_torch(torch, content):
    """A state_dict through a file of torch.save."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def to_torch(torch, value):
    """A state_dict with tensors of torch, as docs/migrate.md shows."""
    if isinstance(value, dict):
        return {key: to_torch(torch, it) for key, it in value.items()}
    return torch.tensor(value.asnumpy()) if isinstance(value, Tensor) else value


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("name", FACES)
def test_state_dicts_go_to_torch_and_back(name, amsgrad, mode):
    """Each goes on where the other was, with the other's numbers, within float32's rounding."""
    torch = pytest.importorskip("torch", reason="a checkpoint of torch is exchanged")
    given = gradients(9)

    def make_torch(start, **options):
        theirs = [torch.nn.Parameter(torch.tensor(w, dtype=torch.float32)) for w in start]
        groups = two_groups(theirs, lr=0.02, eps=1e-4)
        return theirs, getattr(torch.optim, name)(groups, amsgrad=amsgrad, **options)

    def make_ours(start, **options):
        own = parameters()
        for parameter, array in zip(own, start):
            parameter.set_data(Tensor(array, ms.float32))
        groups = two_groups(own, lr=0.02, eps=1e-4)
        return getattr(ms_adam.mint, name)(groups, amsgrad=amsgrad, **options)

    def step_torch(optimizer, theirs, arrays):
        for parameter, array in zip(theirs, arrays):
            parameter.grad = torch.tensor(array)
        optimizer.step()

    options = {"lr": 0.01, "weight_decay": 0.2, "betas": (0.8, 0.99)}
    theirs, first = make_torch([to_numpy(it) for it in parameters()], **options)
    whole = make_ours([it.detach().numpy() for it in theirs], **options)
    for arrays in given[:3]:
        step_torch(first, theirs, arrays)
    ours = make_ours([it.detach().numpy() for it in theirs], lr=0.5)  # other numbers: loaded
    ours.load_state_dict(from_torch(torch, first.state_dict()))
    feed(given[3:6], ours)
    theirs, second = make_torch(weights(ours), lr=0.5)
    second.load_state_dict(from_torch(torch, to_torch(torch, ours.state_dict())))
    for arrays in given[6:]:
        step_torch(second, theirs, arrays)
    feed(given, whole)
    assert second.param_groups[0]["lr"] == 0.01
    assert tuple(second.param_groups[1]["betas"]) == (0.8, 0.99)
    assert second.param_groups[1]["eps"] == 1e-4
    for a, b in zip(theirs, weights(whole)):
        assert np.max(np.abs(a.detach().numpy() - b)) < bound(9, 0.02)
    assert counts(second) == [9] * 3


TAIL = {
    "ema_decay": 0.9,
    "max_grad_norm": 1.0,
    "skip_nonfinite": True,
    "accumulate_steps": 2,
    "master_weights": True,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("copied", ["state_dict", "deepcopy", "pickle"])
def test_a_copy_goes_on_with_the_same_bits(copied, backend):
    """In the middle of an accumulation, with a late group and all of the tail."""
    given = gradients(12)
    optimizer, group = late(given[:2], lr=0.01, backend=backend, **TAIL)
    optimizer.add_param_group({**group, "lr": 0.03, "betas": (0.7, 0.9)})
    optimizer.param_groups[0]["lr"] = 0.02
    feed([*given[2:7], [np.full_like(array, np.nan) for array in given[7]]], optimizer)
    assert (int(optimizer.skipped), int(optimizer.accumulated)) == (1, 1)
    if copied == "deepcopy":
        other = copy.deepcopy(optimizer)
    elif copied == "pickle":
        other = pickle.loads(pickle.dumps(optimizer))
    else:
        other = ms_adam.mint.AdamW(two_groups(parameters()), backend=backend, **TAIL)
        copy_values(optimizer.parameters, other.parameters)
        other.load_state_dict(optimizer.state_dict())
    assert (int(other.skipped), int(other.accumulated)) == (1, 1)
    feed(given[8:], optimizer, other)
    assert_same(other, optimizer)
    np.testing.assert_equal(list(map(to_numpy, other.ema)), list(map(to_numpy, optimizer.ema)))
    assert all(a is not b for a, b in zip(optimizer.parameters, other.parameters))


@pytest.mark.parametrize(
    "spoil, error, words",
    [
        (lambda it: it.pop("state"), ValueError, "the keys 'state' and 'param_groups'"),
        (lambda it: it["param_groups"].pop(), ValueError, r"\[2\] parameters, .* \[2, 1\]"),
        (lambda it: it["param_groups"][0].update(lr=-1.0), ValueError, "'lr'"),
        (lambda it: it["param_groups"][0].update(amsgrad=True), ValueError, "'amsgrad'"),
        (
            lambda it: it["param_groups"][1].update(decoupled_weight_decay=False),
            ValueError,
            "decoupled",
        ),
        (lambda it: it["state"][1].pop("exp_avg"), ValueError, "missing: moment1.layer1.weight"),
        (
            lambda it: it["state"][1].update(momentum=it["state"][1]["exp_avg"]),
            ValueError,
            "momentum",
        ),
        (lambda it: it["state"][0].update(exp_avg=it["state"][1]["exp_avg"]), ValueError, "shape"),
    ],
)
def test_a_state_dict_that_does_not_fit_changes_nothing(spoil, error, words):
    optimizer = ms_adam.mint.AdamW(two_groups(parameters(), lr=0.02))
    feed(gradients(1), optimizer)
    content = optimizer.state_dict()
    before = copy.deepcopy(content)
    spoil(content)
    with pytest.raises(error, match=words):
        optimizer.load_state_dict(content)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for i, entry in before["state"].items():
        for key, value in entry.items():
            np.testing.assert_array_equal(after["state"][i][key].asnumpy(), value.asnumpy())


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("name, before", [("Adam", 0), ("AdamW", -1)])
def test_exchanges_checkpoints_with_mint(name, before, amsgrad, tmp_path):
    """Their state_step begins at 0 or at -1; a load by names into their real classes and back."""
    from mindspore import mint

    ours = getattr(ms_adam.mint, name)(parameters(), lr=0.01, amsgrad=amsgrad)
    feed(gradients(4), ours)
    entries = [{"name": key, "data": value} for key, value in ours.to_mint().items()]
    ms.save_checkpoint(entries, str(tmp_path / "ours.ckpt"))
    theirs = getattr(mint.optim, name)(parameters(seed=5), lr=0.01, amsgrad=amsgrad)
    assert theirs.state_step.asnumpy() == before
    left, _ = ms.load_param_into_net(theirs, ms.load_checkpoint(str(tmp_path / "ours.ckpt")))
    assert left == []
    assert theirs.state_step.asnumpy() == before + 4
    assert_same(theirs, ours)
    for prefix, own in (("exp_avg", ours.moment1), ("exp_avg_sq", ours.moment2)):
        np.testing.assert_equal(
            [to_numpy(it) for it in getattr(theirs, prefix)], [to_numpy(it) for it in own]
        )

    ms.save_checkpoint(theirs, str(tmp_path / "theirs.ckpt"))
    again = getattr(ms_adam.mint, name)(parameters(), lr=0.01, amsgrad=amsgrad)
    content = ms.load_checkpoint(str(tmp_path / "theirs.ckpt"))
    if amsgrad:  # mint keeps maxima in its groups, and in no checkpoint
        content.update((k, v) for k, v in ours.to_mint().items() if k.startswith("max_exp_avg_sq"))
    ms_adam.load_state(again, content)
    assert int(again.update_count) == 4
    copy_values(ours.parameters, again.parameters)
    assert_goes_on(again, ours)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_count_that_is_loaded_is_that_of_late_groups_too(backend):
    given = gradients(8)
    optimizer, group = late(given[:5], backend=backend)
    optimizer.add_param_group(group)
    feed(given[5:6], optimizer)
    other = ms_adam.AdamW([{"params": parameters()}])
    feed(given[:3], other)
    ms_adam.load_state(optimizer, other.parameters_dict())
    assert counts(optimizer) == [3, 3, 3]
    assert len(optimizer.begun) == 0
    copy_values(other.parameters, optimizer.parameters)
    assert_goes_on(optimizer, other)


def test_a_state_that_was_loaded_by_names_counts_as_the_next_step_counts():
    own, theirs = parameters(), nn.Adam(parameters()[:2], 0.01)
    optimizer = ms_adam.mint.Adam(own[:2], lr=0.01)
    given = gradients(6)
    feed(given[:3], optimizer)
    feed(given[:5], theirs)
    ms.load_param_into_net(optimizer, dict(theirs.parameters_dict()))
    assert to_numpy(optimizer.to_mint()["state_step"]) == [5.0]
    optimizer.add_param_group({"params": own[2:]})
    assert counts(optimizer) == [5, 5, 0]
    feed(given[5:], optimizer)
    assert counts(optimizer) == [6, 6, 1]


def test_powers_that_are_set_to_1_count_from_the_start_as_the_next_step_does():
    """So scripts reset the state of `nn.Adam`, whose `global_step` goes on."""
    optimizer, given = ms_adam.mint.Adam(parameters(), lr=0.01), gradients(4)
    feed(given[:3], optimizer)
    for power in (optimizer.core.beta1_power, optimizer.core.beta2_power):
        power.set_data(Tensor(1.0, ms.float32))
    assert counts(optimizer) == [0, 0, 0]
    feed(given[3:], optimizer)
    assert counts(optimizer) == [1, 1, 1] and int(optimizer.global_step) == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_late_group_stays_finite_after_a_load_from_before_it_joined(backend):
    """`load_param_into_net` only sets the count: the group's own would be negative."""
    given = gradients(6)
    optimizer, group = late(given[:2], backend=backend)
    content = optimizer.core.parameters_dict()
    names = ("update_count", "counted_power", "beta2_power", "global_step")
    start = {name: Parameter(content[name].asnumpy().copy(), name=name) for name in names}
    feed(given[2:5], optimizer)
    optimizer.add_param_group(group)
    ms.load_param_into_net(optimizer, {**{it.name: it for it in optimizer.parameters}, **start})
    feed(given[5:], optimizer)
    assert int(optimizer.update_count) == 3
    assert all(np.all(np.isfinite(weight)) for weight in weights(optimizer))


def test_a_load_that_a_compiled_step_would_miss_is_refused():
    given = gradients(1)
    optimizer, group = late(given)
    optimizer.add_param_group(group)
    step = CompiledStep(optimizer)
    step(tensors(given[0]))
    content, core = optimizer.state_dict(), optimizer.core
    other = ms_adam.AdamW([{"params": parameters()}])
    with pytest.raises(RuntimeError, match=r"load_state\(\) after add_param_group\(\) is a change"):
        ms_adam.load_state(optimizer, other.parameters_dict())
    whole = ms_adam.mint.AdamW(two_groups(parameters())).state_dict()
    joined_otherwise = r"load_state_dict\(\) with groups that joined otherwise"
    with pytest.raises(RuntimeError, match=joined_otherwise):
        optimizer.load_state_dict(whole)
    assert optimizer.core is core and int(optimizer.update_count) == 2
    optimizer.load_state_dict(content)
    step(tensors(given[0]))
    assert int(optimizer.update_count) == 3


def test_a_file_of_save_checkpoint_has_the_rates_too(tmp_path):
    old = ms_adam.mint.AdamW(parameters(), lr=0.01)
    scheduler = optim.lr_scheduler.ExponentialLR(old, gamma=0.5)
    for arrays in gradients(3):
        old(tensors(arrays))
        scheduler.step()
    ms.save_checkpoint(old, str(tmp_path / "old.ckpt"))
    new = ms_adam.mint.AdamW(parameters(seed=7), lr=0.3)
    left, _ = ms.load_param_into_net(new, ms.load_checkpoint(str(tmp_path / "old.ckpt")))
    assert left == []
    assert float(new.param_groups[0]["lr"]) == float(old.param_groups[0]["lr"])
    assert_goes_on(new, old)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cell_may_rename_the_parameters(backend):
    class Trainer(nn.Cell):
        def __init__(self, optimizer):
            super().__init__()
            self.optimizer = optimizer  # puts "optimizer." before all names

    given = gradients(4)
    (renamed, its_group), (other, group) = (late(lr=0.01, backend=backend) for _ in range(2))
    Trainer(renamed)
    assert renamed.parameters[0].name.startswith("optimizer.")
    for optimizer, third in ((renamed, its_group), (other, group)):
        feed(given[:2], optimizer)
        optimizer.add_param_group(third)
        optimizer.param_groups[0]["betas"] = (0.8, 0.9)
        feed(given[2:], optimizer)
    assert_same(renamed, other)


# --- the two faces -------------------------------------------------------------------------------

OPTIONS = (
    {"use_nesterov": True, "amsgrad": True, "epsilon_hat": True},
    {"loss_scale": 8.0, "max_grad_norm": 1.0, "ema_decay": 0.9, "flat_state": True},
    {"skip_nonfinite": True, "accumulate_steps": 2, "bias_correction": False},
    {"master_weights": True, "use_lazy": True, "maximize": True},
    {"ema_decay": DecayTable((0.0, 0.5, 0.9, 0.99))},
)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda it: " ".join(it))
@pytest.mark.parametrize("name", FACES)
def test_the_bits_are_those_of_the_other_face(name, options, mode):
    """However it is called: the optimizer, `step`, a compiled step."""
    renamed = {"use_amsgrad" if key == "amsgrad" else key: it for key, it in options.items()}
    numbers = {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1}
    old = getattr(ms_adam, name)([{"params": parameters()}], **numbers, **renamed)
    new = [getattr(ms_adam.mint, name)(parameters(), **numbers, **options) for _ in range(3)]
    compiled = CompiledStep(new[2])
    for arrays in gradients(4):
        old(tensors(arrays))
        for step in (new[0], new[1].step, compiled):
            assert step(tensors(arrays))
    for optimizer in new:
        assert_same(optimizer, old)
        assert int(optimizer.update_count) == int(old.update_count) > 0
        if old.ema is not None:
            with ms_adam.averaged(optimizer), ms_adam.averaged(old):
                assert_same(optimizer, old)
                with pytest.raises(RuntimeError, match="averaged"):
                    optimizer.step(tensors(gradients(1)[0]))


def test_a_loop_in_the_style_of_torch(mode):
    """That of mindnlp: gradients in `grad`, then optimizer.step(), then scheduler.step()."""
    old, new = (ms_adam.mint.AdamW(parameters(), lr=0.01, max_grad_norm=0.5) for _ in range(2))
    schedulers = [optim.lr_scheduler.LinearLR(it, total_iters=3) for it in (old, new)]
    for arrays in gradients(4):
        for parameter, gradient in zip(new.parameters, tensors(arrays)):
            parameter.grad = gradient
        old(tensors(arrays))
        new.step()
        for scheduler in schedulers:
            scheduler.step()
    assert_same(new, old)
    new.parameters[1].grad = None
    with pytest.raises(TypeError, match=r"the gradient of 'layer1.weight' must be .* but got None"):
        new.step()


def test_gradients_of_a_group_are_centralized_as_in_the_other_face():
    group = {"params": parameters(), "grad_centralization": True}
    old, new = ms_adam.AdamW([dict(group, params=parameters())]), ms_adam.mint.AdamW([group])
    feed(gradients(2), old, new)
    assert_same(new, old)
    with pytest.raises(ValueError, match="'grad_centralization' of a group cannot be changed"):
        new.param_groups[0]["grad_centralization"] = False


def test_it_is_an_optimizer_of_experimental_and_names_itself():
    class Mine(ms_adam.mint.AdamW):
        """A user's own."""

    optimizer = Mine(parameters())
    assert isinstance(optimizer, optim.Optimizer)
    with pytest.raises(ValueError, match="For 'Mine', .* shape"):
        optimizer(tensors(gradients(1, ((3, 4), (5,), (2,)))[0]))
    with pytest.raises(AttributeError, match="no_such"):
        optimizer.no_such  # noqa: B018


def test_a_subclass_with_its_own_construct_and_hooks_are_called(mode):
    class Halved(ms_adam.mint.AdamW):
        def construct(self, gradients):
            return super().construct(gradients[:2] + (gradients[2] * 0.0,))

    optimizer = Halved(parameters(), weight_decay=0.0)
    before = weights(optimizer)
    optimizer(tensors(gradients(1)[0]))
    after = weights(optimizer)
    np.testing.assert_array_equal(before[2], after[2])
    assert np.any(before[1] != after[1])
    if mode == "pynative":
        called = []
        plain = ms_adam.mint.AdamW(parameters())
        plain.register_forward_pre_hook(lambda cell, inputs: called.append(1))
        plain(tensors(gradients(1)[0]))
        assert called == [1]
        assert int(plain.update_count) == 1


def test_convert_checkpoint_writes_what_a_trainer_loads(tmp_path):
    old, new = (ms_adam.mint.AdamW(parameters(seed=seed), lr=0.01) for seed in (0, 7))
    feed(gradients(3), old)
    ms_adam.convert_checkpoint(dict(old.to_mint()), tmp_path / "new.ckpt", new)
    ms.load_param_into_net(new, ms.load_checkpoint(str(tmp_path / "new.ckpt")))
    assert_goes_on(new, old)


def test_a_missing_experimental_optim_is_named(monkeypatch):
    """As on 2.0.0, where test_compat finds it missing."""
    monkeypatch.setitem(sys.modules, "mindspore.experimental.optim", None)
    monkeypatch.delitem(sys.modules, "ms_adam.mint")
    monkeypatch.delattr(sys.modules["mindspore.experimental"], "optim")
    with pytest.raises(ImportError, match="ms_adam.mint needs mindspore.experimental.optim"):
        importlib.import_module("ms_adam.mint")
