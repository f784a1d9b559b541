"""accumulate_steps: gradients of several calls make one update."""

import copy
import pickle

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, amp, nn

import ms_adam
from ms_adam import reference
from tests.two_weights import (
    BACKENDS,
    DTYPES,
    UNIT,
    Step,
    arrays,
    everything,
    make,
    random_gradients,
    same,
)

K = 4  # a power of 2: the mean of a sum is exact


def of_state(optimizer):
    """Returns all but the sums, their count, and the names of the owner."""
    return {n: v for n, v in everything(optimizer).items() if "accumulat" not in n}


def gradients_for(optimizer, calls, dtype="float32", seed=1):
    rng = np.random.default_rng(seed)
    return [random_gradients(optimizer, rng, dtype) for _ in range(calls)]


def mean(calls):
    """The gradients of the update, with sums in float32 as the optimizer makes them."""
    sums = []
    for parts in zip(*calls):
        wide = "float64" if parts[0].dtype == ms.float64 else "float32"
        total = np.zeros(parts[0].shape, wide)
        for part in parts:
            total += part.astype(getattr(ms, wide)).asnumpy()
        sums.append(Tensor(total / np.array(len(calls), wide)))
    return tuple(sums)


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
    step = Step(ours) if compiled else lambda *gradients, o=ours: o(gradients)
    calls = gradients_for(ours, 2 * K)
    if options.get("use_lazy"):
        for table, _ in calls:
            table[2] = 0.0
    for number, gradients in enumerate(calls, 1):
        before = of_state(ours)
        step(*(gradient * options.get("loss_scale", 1.0) for gradient in gradients))
        if number % K:
            assert same(before, of_state(ours)) and ours.accumulated.asnumpy() == number % K
        else:
            plain(mean(calls[number - K : number]))
            for one, other in zip(arrays(ours.parameters), arrays(plain.parameters)):
                np.testing.assert_array_equal(one, other)
            if options.get("max_grad_norm"):
                assert ours.grad_norm.asnumpy() == plain.grad_norm.asnumpy()
    assert ours.global_step.asnumpy() == ours.update_count.asnumpy() == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_those_of_float64(backend, dtype):
    """A sum of n numbers is off by at most (n - 1) roundings of sums of absolute values.

    One more rounding takes out the loss scale, which is no power of 2 here.
    """
    scale, calls = 3.0, 3
    variants = [{}]
    if dtype in ("float16", "bfloat16"):
        variants.append({"master_weights": True})
    if backend == "fused":
        variants.append({"flat_state": True})
    for options in variants:
        optimizer = make(
            {"accumulate_steps": K, "loss_scale": scale, "backend": backend, **options}, dtype
        )
        given = gradients_for(optimizer, calls, dtype)
        for gradients in given:
            optimizer(tuple(gradients))
        exact = reference.mean_of_calls([arrays(gradients) for gradients in given], scale)
        sizes = reference.mean_of_calls([map(np.abs, arrays(g)) for g in given], scale)
        unit = UNIT["float64" if dtype == "float64" else "float32"]
        for found, expected, size in zip(arrays(optimizer.accumulators), exact, sizes):
            bound = (calls + 1) * unit * calls * size
            assert (np.abs(found - calls * expected) <= bound).all(), options
            assert not (np.abs(found - expected) <= bound).all()  # a mean would be seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_update_is_that_of_the_paper_with_the_mean(backend):
    """Against float64.

    The mean of 3 is off by `unsure`, 4 roundings of the sum of absolute values, over 3. A moment is
    a mean of gradients with weights that add up to less than 1, so it is off by that and by about 4
    roundings of itself. A step is a learning rate, 0.01, times a quotient of moments, of which each
    is off by a factor within 1 + unsure / |mean| and the same for the root; and 10 roundings of a
    weight below 4.
    """
    optimizer = make({"accumulate_steps": 3, "backend": backend})
    method, weights = reference.Adam(learning_rate=1e-2), arrays(optimizer.parameters)
    states = [method.init(weight) for weight in weights]
    unit, of_weight, of_moment = UNIT["float32"], 0.0, 0.0
    for update in range(3):
        calls = gradients_for(optimizer, 3, seed=update)
        for gradients in calls:
            optimizer(tuple(gradients))
        values = [arrays(gradients) for gradients in calls]
        means = reference.mean_of_calls(values)
        sizes = reference.mean_of_calls([map(np.abs, call) for call in values])
        for i, gradient in enumerate(means):
            weights[i], states[i] = method.step(weights[i], gradient, states[i])
        unsure = [4 * unit * size for size in sizes]
        relative = max((u / np.abs(m)).max() for u, m in zip(unsure, means))
        of_weight += 0.01 * 2 * relative + 10 * unit * 4
        of_moment = max(of_moment, *(u.max() for u in unsure)) + 4 * unit
    for found, expected in zip(arrays(optimizer.parameters), weights):
        assert np.abs(found - expected).max() < of_weight < 1e-4
    for found, state in zip(arrays(optimizer.moment1), states):
        assert np.abs(found - state.moment1).max() < of_moment < 1e-5


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
            dense.append((table, bias))
            continue
        rows = [call, 3, 3]
        values = table[:3]
        ours(((Tensor(rows, ms.int32), values), bias))
        whole = np.zeros(table.shape, np.float32)
        np.add.at(whole, rows, values.asnumpy())
        dense.append((Tensor(whole), bias))
    plain(mean(dense))
    for one, other in zip(arrays(ours.parameters), arrays(plain.parameters)):
        np.testing.assert_array_equal(one, other)
    moved = arrays(ours.parameters)[0] != arrays(make({}).parameters)[0]
    assert moved.any(axis=1).tolist() == [True] * 5 + [False]  # nobody named row 5


# ---- Calls that are left out, and the end of an epoch -------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_that_is_not_finite_is_left_out(mode, backend, compiled):
    """It adjusts the scale, and changes nothing else; the mean is over the others."""
    scaler, theirs = (amp.DynamicLossScaler(1024, 2, 2) for _ in range(2))
    ours = make({"accumulate_steps": 2, "loss_scale": scaler, "backend": backend})
    plain = make({"backend": backend})
    step = Step(ours) if compiled else lambda *gradients, o=ours: o(gradients)
    taken = []
    for call, gradients in enumerate(gradients_for(ours, 7)):
        scaled = [gradient * float(scaler.scale_value.asnumpy()) for gradient in gradients]
        finite = call not in (0, 2, 3)
        if not finite:
            spoiled = scaled[-1].asnumpy().copy()
            spoiled[-1] = np.inf
            scaled[-1] = Tensor(spoiled)
        before = everything(ours)
        step(*scaled)
        theirs.adjust(Tensor(finite))
        assert scaler.scale_value.asnumpy() == theirs.scale_value.asnumpy()
        assert scaler.counter.asnumpy() == theirs.counter.asnumpy()
        if not finite:
            assert same(before, everything(ours))
            continue
        taken.append(gradients)
        if len(taken) % 2 == 0:
            plain(mean(taken[-2:]))
    for one, other in zip(arrays(ours.parameters), arrays(plain.parameters)):
        np.testing.assert_array_equal(one, other)
    assert ours.skipped.asnumpy() == 3 and ours.update_count.asnumpy() == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_flush_updates_with_what_is_there(mode, backend):
    ours, plain = (make({"backend": backend, **k}) for k in ({"accumulate_steps": K}, {}))
    assert ours.flush() is False
    calls = gradients_for(ours, K + 2)
    for gradients in calls:
        ours(tuple(gradients))
    assert ours.flush() is True and ours.flush() is False
    plain(mean(calls[:K]))
    plain(mean(calls[K:]))
    for one, other in zip(arrays(ours.parameters), arrays(plain.parameters)):
        np.testing.assert_array_equal(one, other)
    assert ours.global_step.asnumpy() == 2 and ours.accumulated.asnumpy() == 0
    ours(tuple(calls[0]))  # and a sum begins anew
    np.testing.assert_array_equal(arrays(ours.accumulators)[0], arrays(calls[0])[0])
    with pytest.raises(ValueError, match="one gradient for each of the 2 parameters, but got 0"):
        ours(())


def test_wrong_uses_are_refused():
    with pytest.raises(ValueError, match=r"flush\(\) needs accumulate_steps greater than 1"):
        make({}).flush()
    for steps in (0, -1, 2**31):
        with pytest.raises(ValueError, match=r"'accumulate_steps' must be in the range \[1, 2"):
            make({"accumulate_steps": steps})
    for steps in (True, 2.0, "2"):
        with pytest.raises(TypeError, match="'accumulate_steps' must be an int"):
            make({"accumulate_steps": steps})
    with pytest.raises(ValueError, match="MindSpore's Adam kernel cannot leave a step out"):
        make({"accumulate_steps": 2, "backend": "primitive"})


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
    np.testing.assert_array_equal(shown[0], shown[1])
    np.testing.assert_array_equal(shown[0], shown[2])


# ---- State --------------------------------------------------------------------------------------


def by_mindspore(optimizer, path):
    ms.load_param_into_net(optimizer, ms.load_checkpoint(path))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_in_the_middle_goes_on(mode, tmp_path, backend):
    """Saved and loaded by us and by MindSpore, in another layout, copied, pickled; same bits."""
    options = {"accumulate_steps": K, "backend": backend, "ema_decay": 0.9}
    optimizer = make(options)
    calls = gradients_for(optimizer, 2 * K)
    for gradients in calls[: K + 2]:
        optimizer(tuple(gradients))
    path = str(tmp_path / "state.ckpt")
    ms.save_checkpoint(optimizer, path)
    others = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    flat = {**options, "flat_state": True, "backend": "fused"}
    for other, load in (
        (make(options, seed=5), ms_adam.load_state),
        (make(flat), ms_adam.load_state),
        (make(options, seed=6), by_mindspore),
    ):
        for gradients in calls[:3]:  # into one that has accumulated itself
            other(tuple(gradients))
        load(other, path)
        for parameter, value in zip(other.parameters, arrays(optimizer.parameters)):
            parameter.set_data(Tensor(value, parameter.dtype))
        others.append(other)
    for gradients in calls[K + 2 :]:
        for other in (optimizer, *others):
            other(tuple(gradients))
    assert optimizer.update_count.asnumpy() == 2
    for other in others:
        for one, another in zip(arrays(optimizer.parameters), arrays(other.parameters)):
            np.testing.assert_array_equal(one, another)


def test_a_state_without_sums_begins_them(tmp_path):
    """Of another optimizer, of fewer calls; and lost sums are told."""
    plain, ours = make({}), make({"accumulate_steps": K})
    given = gradients_for(ours, 3)
    plain(tuple(given[0]))
    for gradients in given:
        ours(tuple(gradients))
    shorter = make({"accumulate_steps": 2})
    ms_adam.load_state(shorter, ms_adam.gather_state(ours))
    assert shorter.accumulated.asnumpy() == 3
    shorter(tuple(given[0]))
    assert shorter.accumulated.asnumpy() == 0 and shorter.update_count.asnumpy() == 1
    ms_adam.load_state(ours, ms_adam.gather_state(plain))
    assert ours.accumulated.asnumpy() == 0 and ours.update_count.asnumpy() == 1
    ours(tuple(given[1]))
    np.testing.assert_array_equal(arrays(ours.accumulators)[0], arrays(given[1])[0])


def test_lost_sums_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(ms_adam.checkpoint.log, "warning", told.append)
    ours, plain = make({"accumulate_steps": K}), make({})
    ms_adam.load_state(plain, ms_adam.gather_state(ours))
    assert not told
    ours(tuple(gradients_for(ours, 1)[0]))
    ms_adam.load_state(plain, ms_adam.gather_state(ours))
    (message,) = told
    assert "saved after 1 of several calls that make one update" in message


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_loaded_between_calls_stay(mode, backend):
    for compiled in (False, True):
        optimizer = make({"accumulate_steps": 2, "backend": backend})
        step = Step(optimizer) if compiled else lambda *gradients, o=optimizer: o(gradients)
        ones = [Tensor(np.ones(p.shape, np.float32)) for p in optimizer.parameters]
        for call in range(4):
            for parameter in optimizer.parameters:
                parameter.set_data(Tensor(np.full(parameter.shape, 5.0, np.float32)))
            step(*ones)
            # Adam moves by the learning rate where all gradients are alike; 2^-22 rounds.
            expected = 5.0 if call % 2 == 0 else 4.99
            assert np.abs(arrays(optimizer.parameters)[0] - expected).max() < 2.0**-21


def test_the_step_of_a_network_accumulates(mode):
    """Inside a whole compiled training step, as trainers have it."""
    network = nn.Dense(4, 2)
    optimizer = ms_adam.AdamW(network.trainable_params(), 1e-2, accumulate_steps=2)
    train = nn.TrainOneStepCell(nn.WithLossCell(network, nn.MSELoss()), optimizer).set_train()
    x, y = ms.ops.ones((3, 4)), ms.ops.zeros((3, 2))
    losses = [float(train(x, y).asnumpy()) for _ in range(6)]
    assert losses[0] == losses[1] > losses[2] == losses[3] > losses[4] == losses[5]
    assert optimizer.update_count.asnumpy() == 3
