"""accumulate_steps: gradients of several calls make one update."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from running import step_of

import ms_adam
from tests.two_weights import (
    BACKENDS,
    arrays,
    assert_same_weights,
    everything,
    filled,
    make,
    mean_of,
    random_gradients,
    same,
)

K = 4  # a power of 2: the mean of a sum is exact


def of_state(optimizer):
    """Returns all but the sums, their count, and the names of the owner."""
    return {n: v for n, v in everything(optimizer).items() if "accumulat" not in n}


def gradients_for(optimizer, calls):
    rng = np.random.default_rng(1)
    return [random_gradients(optimizer, rng) for _ in range(calls)]


# ---- Updates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {"max_grad_norm": 1.0, "loss_scale": 2.0**10, "ema_decay": 0.9},
        {"weight_decay": 0.1, "maximize": True, "use_amsgrad": True},
        {"use_lazy": True},
    ],
)
def test_one_update_of_several_calls_is_that_of_their_mean(mode, backend, options, compiled):
    """Bit for bit; the other calls change the sums alone, schedules count updates."""
    rates = [0.1, 0.01, 0.001]
    ours = make({**options, "accumulate_steps": K, "backend": backend, "learning_rate": rates})
    unscaled = {name: v for name, v in options.items() if name != "loss_scale"}
    plain = make({**unscaled, "backend": backend, "learning_rate": rates})
    step = step_of(ours, compiled)
    calls = gradients_for(ours, 2 * K)
    if options.get("use_lazy"):
        for table, _ in calls:
            table[2] = 0.0
    for number, gradients in enumerate(calls, 1):
        before = of_state(ours)
        step(tuple(gradient * options.get("loss_scale", 1.0) for gradient in gradients))
        if number % K:
            assert same(before, of_state(ours)) and ours.accumulated.asnumpy() == number % K
        else:
            plain(mean_of(calls[number - K : number]))
            assert_same_weights(ours, plain)
            if options.get("max_grad_norm"):
                assert ours.grad_norm.asnumpy() == plain.grad_norm.asnumpy()
    assert ours.global_step.asnumpy() == ours.update_count.asnumpy() == 2


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_added_by_row(mode, backend, lazy):
    """Pairs name some rows, one of them twice; dense and row-sparse calls mix."""
    options = {"accumulate_steps": K, "backend": backend, "use_lazy": lazy}
    ours, plain = make(options), make({"backend": backend, "use_lazy": lazy})
    rng = np.random.default_rng(3)
    dense = []
    for call in range(K):
        table, bias = random_gradients(ours, rng)
        if call == 2:
            table[5] = 0.0
            ours((table, bias))
        else:
            rows, values = [call, 3, 3], table[:3]
            ours(((Tensor(rows, ms.int32), values), bias))
            whole = np.zeros(table.shape, np.float32)
            np.add.at(whole, rows, values.asnumpy())
            table = Tensor(whole)
        dense.append((table, bias))
    plain(mean_of(dense))
    assert_same_weights(ours, plain)
    moved = arrays(ours.parameters)[0] != arrays(make({}).parameters)[0]
    assert moved.any(axis=1).tolist() == [True] * 5 + [False]  # nobody named row 5


# ---- The end of an epoch ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_flush_updates_with_what_is_there(mode, backend):
    ours, plain = (make({"backend": backend, **k}) for k in ({"accumulate_steps": K}, {}))
    assert ours.flush() is False
    calls = gradients_for(ours, K + 2)
    for gradients in calls:
        ours(gradients)
    assert ours.flush() is True and ours.flush() is False
    plain(mean_of(calls[:K]))
    plain(mean_of(calls[K:]))
    assert_same_weights(ours, plain)
    assert ours.global_step.asnumpy() == 2 and ours.accumulated.asnumpy() == 0
    ours(calls[0])  # and a sum begins anew
    np.testing.assert_array_equal(arrays(ours.accumulators)[0], arrays(calls[0])[0])
    with pytest.raises(ValueError, match="one gradient for each of the 2 parameters, but got 0"):
        ours(())


def test_flush_without_accumulation_is_refused():
    with pytest.raises(ValueError, match=r"flush\(\) needs accumulate_steps greater than 1"):
        make({}).flush()


def test_sums_do_not_depend_on_threads():
    shown = []
    for threads in (1, 2, 5):
        optimizer = ms_adam.Adam(
            [ms.Parameter(Tensor(np.ones((300, 700), np.float32)), name="w")],
            accumulate_steps=2,
            max_grad_norm=1.0,
        )
        plan = optimizer.update.plan.asnumpy().copy()
        plan[2] = threads  # see `fused._plan`
        optimizer.update.plan = Tensor(plan)
        for seed in range(4):
            gradient = np.random.default_rng(seed).standard_normal((300, 700))
            optimizer((Tensor(gradient, ms.float32),))
        shown.append(arrays(optimizer.parameters)[0])
    np.testing.assert_equal(shown, shown[:1] * 3)


# ---- State --------------------------------------------------------------------------------------


def test_a_state_without_sums_begins_them(tmp_path):
    """Of another optimizer, of fewer calls; and lost sums are told."""
    plain, ours = make({}), make({"accumulate_steps": K})
    given = gradients_for(ours, 3)
    plain(given[0])
    for gradients in given:
        ours(gradients)
    shorter = make({"accumulate_steps": 2})
    ms_adam.load_state(shorter, ms_adam.gather_state(ours))
    assert shorter.accumulated.asnumpy() == 3
    shorter(given[0])
    assert shorter.accumulated.asnumpy() == 0 and shorter.update_count.asnumpy() == 1
    ms_adam.load_state(ours, ms_adam.gather_state(plain))
    assert ours.accumulated.asnumpy() == 0 and ours.update_count.asnumpy() == 1
    ours(given[1])
    np.testing.assert_array_equal(arrays(ours.accumulators)[0], arrays(given[1])[0])


def test_lost_sums_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(ms_adam.checkpoint.log, "warning", told.append)
    ours, plain = make({"accumulate_steps": K}), make({})
    ms_adam.load_state(plain, ms_adam.gather_state(ours))
    assert not told
    ours(gradients_for(ours, 1)[0])
    ms_adam.load_state(plain, ms_adam.gather_state(ours))
    (message,) = told
    assert "saved after 1 of several calls that make one update" in message


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_loaded_between_calls_stay(mode, backend):
    for compiled in (False, True) if mode == "graph" else (False,):
        optimizer = make({"accumulate_steps": 2, "backend": backend})
        step = step_of(optimizer, compiled)
        ones = filled(optimizer, 1.0)
        for call in range(4):
            for parameter in optimizer.parameters:
                parameter.set_data(Tensor(np.full(parameter.shape, 5.0, np.float32)))
            step(ones)
            # Adam moves by the learning rate where all gradients are alike; 2^-22 rounds.
            expected = 5.0 if call % 2 == 0 else 4.99
            assert np.abs(arrays(optimizer.parameters)[0] - expected).max() < 2.0**-21
