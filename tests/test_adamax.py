"""AdaMax: Algorithm 2 of the paper, in the place of `nn.AdaMax`."""

import inspect

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from running import CompiledStep, as_tensors, make_parameters, to_numpy

import ms_adam
from ms_adam import reference
from ms_adam.lab.studies.matrix.cases import gradients

SHAPES = ((3, 5), (7,), ())
THEIRS = SHAPES[:2]  # the kernel of nn.AdaMax refuses ()
WAYS = [("fused", False), ("fused", True), ("composite", False)]


def run(optimizer, steps=4, scale=1.0, compiled=False):
    """Makes steps with random gradients; returns them as float64 arrays."""
    step, fed = CompiledStep(optimizer) if compiled else optimizer, []
    for arrays in gradients([p.shape for p in optimizer.parameters], steps, scale):
        tensors, exact = as_tensors(arrays, "float32")
        step(tensors)
        fed.append(exact)
    return fed


def follow(methods, start, fed):
    """The reference's weights after the same gradients; one method for each parameter."""
    states = [method.init(weight) for method, weight in zip(methods, start)]
    for exact in fed:
        for i, method in enumerate(methods):
            start[i], states[i] = method.step(start[i], exact[i], states[i])
    return start


def assert_close(optimizer, expected, atol=1e-6):
    for parameter, want in zip(optimizer.parameters, expected):
        np.testing.assert_allclose(to_numpy(parameter), want, rtol=0, atol=atol)


def float32(x):
    return float(np.float32(x))


def test_arguments_and_state_are_those_of_nn_adamax():
    documented = inspect.getclosurevars(nn.AdaMax.__init__).nonlocals["fn"]
    theirs = inspect.signature(documented).parameters
    ours = inspect.signature(ms_adam.AdaMax.__init__).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert all(ours[name].default == p.default for name, p in theirs.items())
    named = [
        {p.name: p.shape for p in optimizer(make_parameters(SHAPES, "float32")).get_parameters()}
        for optimizer in (ms_adam.AdaMax, nn.AdaMax)
    ]
    assert named[0] == {**named[1], "update_count": (1,), "counted_power": ()}


@pytest.mark.parametrize(
    "error, options, message",
    [
        (KeyError, {"use_nesterov": True}, "For 'AdaMax', no argument is named 'use_nesterov'"),
        (ValueError, {"eps": -1e-8}, "For 'AdaMax'.*'eps'"),
        (TypeError, {"eps": 0}, "'eps'.*float"),
        (TypeError, {"betas": (0.9, 0.99), "beta2": 0.99}, "'betas' and 'beta2'"),
        (ValueError, {"backend": "primitive"}, "'primitive' cannot run here.*infinity norm"),
    ],
)
def test_bad_arguments(error, options, message):
    with pytest.raises(error, match=message):
        ms_adam.AdaMax(make_parameters(SHAPES, "float32"), **options)


@pytest.mark.parametrize("backend, compiled", WAYS)
def test_groups_and_schedules(backend, compiled, mode):
    a, b, c = make_parameters(SHAPES, "float32")
    optimizer = ms_adam.AdaMax(
        [
            {"params": [a], "betas": (0.5, 0.9), "grad_centralization": True},
            {"params": [b], "eps": 0.0, "lr": [0.1, 0.03, 0.02, 0.01], "maximize": True},
            {"params": [c], "weight_decay": 0.1},
        ],
        0.01,
        backend=backend,
    )
    start = [to_numpy(p) for p in (a, b, c)]
    fed = run(optimizer, compiled=compiled)
    rate = float32(0.01)
    expected = follow(
        [
            reference.AdaMax(rate, 0.5, 0.9, centralize=True),
            reference.AdaMax(eps=0.0, maximize=True),
            reference.AdaMax(rate, weight_decay=float32(0.1)),
        ],
        list(start),
        fed,
    )
    w, method = start[1], reference.AdaMax(eps=0.0, maximize=True)
    state = method.init(w)
    for exact, step_rate in zip(fed, (0.1, 0.03, 0.02, 0.01)):
        w, state = method.step(w, exact[1], state, learning_rate=float32(step_rate))
    assert_close(optimizer, [expected[0], w, expected[2]])


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-20])
@pytest.mark.parametrize("backend, compiled", WAYS)
def test_without_epsilon_it_is_algorithm_2(backend, compiled, scale, mode):
    """Whatever the size of the gradients; elements whose gradients were all 0 stay."""
    optimizer = ms_adam.AdaMax(make_parameters(SHAPES, "float32"), 0.01, eps=0.0, backend=backend)
    start = [to_numpy(p) for p in optimizer.parameters]
    step = CompiledStep(optimizer) if compiled else optimizer
    zeros = tuple(Tensor(np.zeros(shape), ms.float32) for shape in SHAPES)
    step(zeros)
    assert_close(optimizer, start, atol=0)
    fed = [[np.zeros(shape) for shape in SHAPES]] + run(optimizer, scale=scale, compiled=compiled)
    method = reference.AdaMax(float32(0.01), eps=0.0)
    assert_close(optimizer, follow([method] * 3, start, fed))


def test_follows_nn_adamax(mode):
    options = dict(learning_rate=0.01, weight_decay=0.1, loss_scale=1.0)
    ours, theirs = (
        optimizer(make_parameters(THEIRS, "float32"), **options)
        for optimizer in (ms_adam.AdaMax, nn.AdaMax)
    )
    run(ours), run(theirs)
    assert_close(ours, [to_numpy(p) for p in theirs.parameters])


@pytest.mark.parametrize("backend", ["fused", "composite"])
@pytest.mark.parametrize("way", ["load_state", "load_param_into_net", "back"])
def test_checkpoints_of_nn_adamax(way, backend, mode):
    old = nn.AdaMax(make_parameters(THEIRS, "float32"), 0.01)
    new = ms_adam.AdaMax(make_parameters(THEIRS, "float32"), 0.01, backend=backend)
    first, second = (new, old) if way == "back" else (old, new)
    run(first)
    entries = {p.name: Parameter(p.value().copy(), name=p.name) for p in first.get_parameters()}
    if way == "load_state":
        ms_adam.load_state(second, entries)
        for parameter, value in zip(second.parameters, first.parameters):
            parameter.set_data(value.value().copy())
    else:
        ms.load_param_into_net(second, entries)
    run(first), run(second)
    if second is new:
        assert int(new.update_count) == 8
    assert_close(second, [to_numpy(p) for p in first.parameters], 2e-6)


def test_state_is_gathered_and_loaded():
    optimizer = ms_adam.AdaMax(make_parameters(SHAPES, "float32"), flat_state=True)
    run(optimizer)
    state = ms_adam.gather_state(optimizer)
    assert "beta2_power" not in state and state["beta1_power"].shape == (1,)
    again = ms_adam.AdaMax(make_parameters(SHAPES, "float32"), backend="composite")
    ms_adam.load_state(again, state)
    assert int(again.update_count) == 4 and float(again.counted_power) == float(
        optimizer.counted_power
    )
