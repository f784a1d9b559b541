"""AdaMax: Algorithm 2 of the paper, in the place of `nn.AdaMax`."""

import functools

import mindspore as ms
import numpy as np
import pytest
from foreign_checkpoints import renamed, state_of, torch_state_dict
from mindspore import Parameter, Tensor, nn
from running import (
    adam,
    copy_values,
    float32,
    follow,
    make_parameters,
    run,
    step_of,
    to_numpy,
    unchanged,
)

import ms_adam
from ms_adam import reference

SHAPES = ((3, 5), (7,), ())
THEIRS = SHAPES[:2]  # the kernel of nn.AdaMax refuses ()
WAYS = [("fused", False), ("fused", True), ("composite", False)]


adamax = functools.partial(adam, SHAPES, optimizer=ms_adam.AdaMax)


def assert_close(optimizer, expected, atol=1e-6):
    for parameter, want in zip(optimizer.parameters, expected):
        np.testing.assert_allclose(to_numpy(parameter), want, rtol=0, atol=atol)


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
        adamax(**options)


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
    fed = run(optimizer, 4, compiled=compiled)
    rate, rates = float32(0.01), list(map(float32, (0.1, 0.03, 0.02, 0.01)))
    of_a = reference.AdaMax(rate, 0.5, 0.9, centralize=True)
    of_b = reference.AdaMax(eps=0.0, maximize=True)
    of_c = reference.AdaMax(rate, weight_decay=float32(0.1))
    assert_close(
        optimizer,
        follow(of_a, start, fed, slice(1))
        + follow(of_b, start, fed, slice(1, 2), learning_rate=rates)
        + follow(of_c, start, fed, slice(2, 3)),
    )


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-20])
@pytest.mark.parametrize("backend, compiled", WAYS)
def test_without_epsilon_it_is_algorithm_2(backend, compiled, scale, mode):
    """Whatever the size of the gradients; elements whose gradients were all 0 stay."""
    optimizer = adamax(0.01, eps=0.0, backend=backend)
    start = [to_numpy(p) for p in optimizer.parameters]
    step = step_of(optimizer, compiled)
    zeros = tuple(Tensor(np.zeros(shape), ms.float32) for shape in SHAPES)
    step(zeros)
    assert_close(optimizer, start, atol=0)
    fed = [[np.zeros(shape) for shape in SHAPES]] + run(optimizer, 4, scale, compiled=compiled)
    assert_close(optimizer, follow(reference.AdaMax(float32(0.01), eps=0.0), start, fed))


def test_follows_nn_adamax(mode):
    options = dict(learning_rate=0.01, weight_decay=0.1, loss_scale=1.0)
    ours, theirs = (
        adam(THEIRS, optimizer=optimizer, **options) for optimizer in (ms_adam.AdaMax, nn.AdaMax)
    )
    run(ours, 4), run(theirs, 4)
    assert_close(ours, [to_numpy(p) for p in theirs.parameters])


@pytest.mark.parametrize("backend", ["fused", "composite"])
@pytest.mark.parametrize("way", ["load_state", "load_param_into_net", "back"])
def test_checkpoints_of_nn_adamax(way, backend, mode):
    old = adam(THEIRS, 0.01, optimizer=nn.AdaMax)
    new = adam(THEIRS, 0.01, optimizer=ms_adam.AdaMax, backend=backend)
    first, second = (new, old) if way == "back" else (old, new)
    run(first, 4)
    entries = {p.name: Parameter(p.value().copy(), name=p.name) for p in first.get_parameters()}
    if way == "load_state":
        ms_adam.load_state(second, entries)
        copy_values(first.parameters, second.parameters)
    else:
        ms.load_param_into_net(second, entries)
    run(first, 4), run(second, 4)
    if second is new:
        assert int(new.update_count) == 8
    assert_close(second, [to_numpy(p) for p in first.parameters], 2e-6)


def test_the_state_of_adam_is_refused_and_the_reverse():
    """Its second moments have the same names and shapes, and are squares."""
    squares, maxima = adam(SHAPES), adamax()
    run(squares, 1), run(maxima, 1)
    of_torch = torch_state_dict(state_of(SHAPES), 1, len(SHAPES))
    names = [parameter.name for parameter in maxima.parameters]
    for optimizer, state, keywords, words in (
        (squares, maxima.parameters_dict(), {}, "maxima of magnitudes, .* keeps means of squares"),
        (maxima, squares.parameters_dict(), {}, "means of squares, .* keeps maxima of magnitudes"),
        (maxima, of_torch, {"names": names}, "means of squares, .* keeps maxima of magnitudes"),
        (maxima, renamed(state_of(SHAPES), "adam_m", "adam_v"), {"step": 1}, "means of squares"),
    ):
        says = f"second moments are {words}"
        with unchanged(optimizer), pytest.raises(ValueError, match=says):
            ms_adam.load_state(optimizer, state, **keywords)


def test_state_is_gathered_and_loaded():
    optimizer = adamax(flat_state=True)
    run(optimizer, 4)
    state = ms_adam.gather_state(optimizer)
    assert "beta2_power" not in state and state["beta1_power"].shape == (1,)
    again = adamax(backend="composite")
    ms_adam.load_state(again, state)
    assert int(again.update_count) == 4
    assert float(again.counted_power) == float(optimizer.counted_power)
