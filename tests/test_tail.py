"""The tail of a training step: gradients that are not finite, loss scalers, averages of weights."""

import itertools
import os
import signal
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, amp, nn
from running import copy_values, step_of

import ms_adam
from ms_adam import averages, base, reference
from tests.scripts_run import run_on_two_ranks
from tests.two_weights import (
    BACKENDS,
    DTYPES,
    UNIT,
    Growing,
    arrays,
    assert_same_weights,
    everything,
    filled,
    make,
    mean_of,
    random_gradients,
    same,
)

ON_RANKS = Path(__file__).with_name("tail_on_ranks.py")
STEPS, DECAY = 5, 0.9


# ---- Gradients that are not finite, and loss scalers --------------------------------------------


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scaler_moves_as_that_of_mindspore_and_calls_are_left_out(mode, backend, compiled, calls):
    """Against DynamicLossScaler.adjust, and updates with the mean of the calls that are finite."""
    scaler, theirs = (amp.DynamicLossScaler(1024, 2, 2) for _ in range(2))
    ours = make({"loss_scale": scaler, "backend": backend, "accumulate_steps": calls})
    plain = make({"backend": backend})
    step, rng = step_of(ours, compiled), np.random.default_rng(1)
    taken, expected = [], (1024.0, 0)
    for k in range(9):
        gradients = random_gradients(ours, rng)
        # exact: a power of 2
        scaled = [gradient * float(scaler.scale_value.asnumpy()) for gradient in gradients]
        finite = k not in (2, 3, 6)
        if not finite:
            spoiled = scaled[-1].asnumpy().copy()
            spoiled[-1] = (np.inf, -np.inf, np.nan)[k % 3]
            scaled[-1] = Tensor(spoiled)
        before = everything(ours)
        step(tuple(scaled))
        theirs.adjust(Tensor(finite))
        if finite:
            taken.append(gradients)
            if len(taken) % calls == 0:
                plain(mean_of(taken[-calls:]))
        else:
            assert same(before, everything(ours))
        assert reference.all_finite([g.asnumpy() for g in scaled]) == finite
        expected = reference.adjust_loss_scale(*expected, finite, 2, 2)
        assert scaler.scale_value.asnumpy() == theirs.scale_value.asnumpy() == expected[0]
        assert scaler.counter.asnumpy() == theirs.counter.asnumpy() == expected[1]
        assert ours.skipped.asnumpy() == k + 1 - len(taken)
        assert_same_weights(ours, plain)
    assert len(taken) == 6 and ours.update_count.asnumpy() == 6 // calls


def test_one_element_skips_the_step_of_all():
    """In any dtype, dense or row-sparse; with masters, flat, lazy, clipped.

    The two graphs of operators, which compile long, have two dtypes each.
    """
    for options, dtypes in (
        ({}, DTYPES),
        ({"max_grad_norm": 1.0}, DTYPES),
        ({"flat_state": True, "ema_decay": 0.9}, DTYPES),
        ({"master_weights": True}, DTYPES),
        ({"use_lazy": True, "backend": "composite"}, DTYPES[:2]),
        ({"backend": "composite", "max_grad_norm": 1.0, "ema_decay": 0.9}, DTYPES[2:]),
    ):
        for sparse in (False, True):
            optimizer = make({"skip_nonfinite": True, **options}, *dtypes)
            gradients = list(random_gradients(optimizer, np.random.default_rng(2)))
            rows = Tensor([0, 3], ms.int32)
            if sparse:
                gradients[::2] = [(rows, table[4:]) for table in gradients[::2]]
            optimizer(tuple(gradients))
            places = range(0 if sparse else 1, len(gradients), 2)  # the tables, or the others
            spoils = itertools.product(places, (np.nan, np.inf, -np.inf))
            for skipped, (place, value) in enumerate(spoils, 1):
                before = everything(optimizer)
                whole = gradients[place][1] if sparse else gradients[place]
                spoiled = whole.astype(ms.float64).asnumpy().copy()
                spoiled.reshape(-1)[-1] = value
                spoiled = Tensor(spoiled, ms.float64).astype(whole.dtype)
                given = list(gradients)
                given[place] = (rows, spoiled) if sparse else spoiled
                optimizer(tuple(given))
                assert same(before, everything(optimizer)), (options, place, value)
                assert optimizer.skipped.asnumpy() == skipped
                optimizer(tuple(gradients))
                assert not same(before, everything(optimizer))


def test_large_finite_gradients_do_not_skip():
    """Squares of float64 and sums of float16 may overflow where no gradient does."""
    for dtype, size in (("float64", 1e200), ("float32", 3e38), ("float16", 6e4)):
        for backend in ("fused", "composite"):
            optimizer = make({"skip_nonfinite": True, "backend": backend}, dtype)
            optimizer(filled(optimizer, size))
            assert optimizer.skipped.asnumpy() == 0 and optimizer.update_count.asnumpy() == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_storm_of_overflows_ends_at_a_scale_of_1_with_a_warning(
    mode, monkeypatch, capfd, backend
):
    """Of operators that are compiled into a step nobody hears; `skipped` tells."""
    told, compiled = [], mode == "graph"
    monkeypatch.setattr(base.log, "warning", told.append)
    scaler = amp.DynamicLossScaler(2**16, 2, 10)
    optimizer = make({"loss_scale": scaler, "backend": backend})
    step = step_of(optimizer, compiled)
    good = filled(optimizer, 1.0)
    bad = tuple(gradient * np.inf for gradient in good)
    for _ in range(99):
        step(bad)
    step(good)
    assert not told and optimizer.skipped_in_row.asnumpy() == 0
    for _ in range(200):
        step(bad)
    assert scaler.scale_value.asnumpy() == 1.0 and optimizer.skipped.asnumpy() == 299
    assert optimizer.skipped_in_row.asnumpy() == 200
    if not compiled:
        assert all("steps in a row were skipped" in message for message in told)
        assert len(told) == 2 and told[0].startswith("For 'Adam', 100 ")
    elif backend == "fused":
        assert capfd.readouterr().err.count("100 steps in a row were skipped") == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("is_scaler", [True, False])
def test_a_loss_scale_is_read_in_each_step(mode, backend, is_scaler):
    """Of a scaler, or of `nn.TrainOneStepWithLossScaleCell`, which its own update cell adjusts."""
    scale = Parameter(Tensor([8.0], ms.float32), name="scale_sense", requires_grad=False)
    scaler = amp.StaticLossScaler(8.0) if is_scaler else scale
    scale = scaler.scale_value if is_scaler else scale
    ours, plain = make({"loss_scale": scaler, "backend": backend}), make({"backend": backend})
    rng = np.random.default_rng(3)
    for value in (8.0, 32.0, 32.0):
        scale.set_data(Tensor(np.full(scale.shape, value), ms.float32))
        gradients = random_gradients(ours, rng)
        ours(tuple(gradient * value for gradient in gradients))
        plain(gradients)
        ours(tuple(gradient * np.inf for gradient in gradients))
        assert scale.asnumpy() == value
    assert_same_weights(ours, plain)
    assert ours.skipped.asnumpy() == 3
    for wrong in (Tensor([8.0], ms.float16), Tensor([8.0, 8.0], ms.float32)):
        with pytest.raises(TypeError, match="or a float32 Parameter of one number"):
            make({"loss_scale": Parameter(wrong, name="scale_sense")})


class Two(nn.Cell):
    """Gets two optimizers, and gives their Parameters a prefix each."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.another = first, second


@pytest.mark.parametrize("gathered", [True, False])
def test_a_scaler_of_two_optimizers_is_saved_with_each(gathered):
    """It has the prefix of one of them."""

    def pair():
        scaler = amp.DynamicLossScaler(1024, 2, 2)
        optimizers = [make({"loss_scale": scaler}, seed=seed) for seed in (0, 1)]
        Two(*optimizers)
        return scaler, optimizers

    scaler, old = pair()
    for optimizer in old:
        optimizer(random_gradients(optimizer, np.random.default_rng(1)))
    assert scaler.scale_value.asnumpy() == 2048.0
    for i, optimizer in enumerate(old):
        other, new = pair()
        whole = ms_adam.gather_state(optimizer) if gathered else optimizer.parameters_dict()
        ms_adam.load_state(new[i], whole)
        assert other.scale_value.asnumpy() == 2048.0


@pytest.mark.parametrize("backend", [*BACKENDS, "primitive"])
def test_the_largest_loss_scales_lose_nothing(backend):
    """1 / loss_scale, clipped, is far below the smallest normal float32."""
    for scaler in (True, False) if backend in BACKENDS else (False,):
        for clip in ({}, {"max_grad_norm": 1e-3}):
            scale, options = 2.0**120, {"backend": backend, **clip}
            ours = make({"loss_scale": amp.StaticLossScaler(scale) if scaler else scale, **options})
            plain = make(options)
            rng = np.random.default_rng(9)
            for _ in range(2):
                gradients = random_gradients(ours, rng)
                ours(tuple(gradient * scale for gradient in gradients))
                plain(gradients)
            assert_same_weights(ours, plain)


def replaced(optimizer, by_loading):
    """Gives weights and first moments other memory and values, as trainers do."""
    values = {p.name: np.full(p.shape, 5.0, np.float32) for p in optimizer.parameters}
    values.update({m.name: np.zeros(m.shape, np.float32) for m in optimizer.moment1})
    loaded = {name: Parameter(Tensor(value), name=name) for name, value in values.items()}
    if by_loading:
        ms.load_param_into_net(optimizer, loaded)
    else:
        copy_values(loaded.values(), (*optimizer.parameters, *optimizer.moment1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {"skip_nonfinite": True},
        {"skip_nonfinite": True, "flat_state": True},
        {"skip_nonfinite": True, "ema_decay": DECAY, "ema_debias": False},
        {"skip_nonfinite": True, "use_lazy": True, "max_grad_norm": 1e3},
        {"ema_decay": DECAY},
    ],
)
def test_steps_after_other_data_were_loaded(mode, backend, options):
    """In a step with branches, a graph that was compiled before goes on with the old memory.

    With the first moment 0, and second moments that are means of squares of 1, a step with a
    gradient of 1 moves a weight of 5 by the learning rate, 0.01, times 0.1 / (1 - 0.9^t).
    """
    for compiled, by_loading in ((False, False), (True, True)):
        optimizer = make({**options, "backend": backend})
        step = step_of(optimizer, compiled and mode == "graph")
        ones = filled(optimizer, 1.0)
        for t in (2, 4):  # the number of the first step after the data were replaced
            step(ones)
            replaced(optimizer, by_loading)
            step(ones)
            moved = 5.0 - arrays(optimizer.parameters)[0]
            # 5 - moved is rounded to float32: 2^-22.
            assert np.abs(moved - 0.01 * 0.1 / (1 - 0.9**t)).max() < 2.0**-21, (compiled, t)
            (moment,) = arrays([ms_adam.gather_state(optimizer)["moment1.table"]])
            assert np.abs(moment - 0.1).max() < 1e-7


# ---- Averages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_averages_of_rows_that_are_skipped_move(mode, backend, debias):
    """Against section 7.2 in float64, from the weights that the optimizer had after each step.

    Each step rounds the average three times (difference, product, sum), of at most the largest
    weight W, and its rate once; errors of earlier steps only shrink. 4 * STEPS * unit * W.
    """
    options = {"ema_decay": DECAY, "ema_debias": debias, "use_lazy": True, "backend": backend}
    optimizer, rng = make(options, *DTYPES), np.random.default_rng(4)
    average = reference.Average(DECAY, debias=debias)
    means = [average.start(w) for w in arrays(optimizer.parameters)]
    largest = np.zeros(len(means))
    for t in range(1, STEPS + 1):
        gradients = list(random_gradients(optimizer, rng))
        rows = Tensor([t % 6, 5], ms.int32)
        gradients[::2] = [(rows, table[:2]) for table in gradients[::2]]
        optimizer(tuple(gradients))
        weights = arrays(optimizer.state.weights)
        largest = np.maximum(largest, [np.abs(w).max() for w in weights])
        means = [average.update(m, w) for m, w in zip(means, weights)]
    with ms_adam.averaged(optimizer):
        shown = arrays(optimizer.parameters)
    for i, (mean, ema, value) in enumerate(zip(means, arrays(optimizer.ema), shown)):
        dtype, exact = DTYPES[i // 2], average.value(mean, STEPS)
        bound = 4 * STEPS * UNIT["float64" if dtype == "float64" else "float32"] * largest[i]
        assert np.abs(exact - ema).max() <= bound, dtype
        stored = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(dtype, 0.0)
        bound += stored * np.abs(exact).max()
        assert np.abs(exact - value).max() <= bound, dtype


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"skip_nonfinite": True},
        {"skip_nonfinite": True, "backend": "composite"},
        {"accumulate_steps": 2, "flat_state": True},
        {"accumulate_steps": 2, "backend": "composite"},
    ],
    ids=str,
)
def test_a_schedule_of_ema_decay(mode, options, debias, called):
    """Each update has its own decay rate, also after skipped steps and where calls accumulate.

    The divisor of section 7.2 is the average of ones. The bound is that of the test above.
    """
    decays = Growing().after(STEPS)
    optimizer = make({"ema_decay": Growing(), "ema_debias": debias, **options})
    step = step_of(optimizer, not called)
    rng = np.random.default_rng(4)
    means = [reference.Average(0.5, debias).start(w) for w in arrays(optimizer.parameters)]
    ones, largest = np.zeros(()), 0.0
    for decay in decays:
        gradients = random_gradients(optimizer, rng)
        spoiled = np.inf if "skip_nonfinite" in options else 1.0
        step((gradients[0], gradients[1] * spoiled))
        step(gradients)
        average = reference.Average(decay, debias)
        weights = arrays(optimizer.parameters)
        largest = max(largest, *(np.abs(w).max() for w in weights))
        means = [average.update(m, w) for m, w in zip(means, weights)]
        ones = average.update(ones, 1.0)
    with ms_adam.averaged(optimizer):
        shown = arrays(optimizer.parameters)
    for mean, value in zip(means, shown):
        exact = mean / ones if debias else mean
        assert np.abs(exact - value).max() <= 4 * STEPS * UNIT["float32"] * largest, options
        constant = mean / (1.0 - decays[-1] ** STEPS) if debias else exact
        apart = np.abs(constant - value).max()
        assert not debias or apart > 100 * 4 * STEPS * UNIT["float32"] * largest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"flat_state": True}, {"master_weights": True}])
def test_averaged_puts_averages_in_and_weights_back(mode, dtype, options):
    optimizer = make({"ema_decay": DECAY, **options}, dtype)
    rng = np.random.default_rng(5)
    weights = arrays(optimizer.parameters)
    with ms_adam.averaged(optimizer):  # before the first update: the weights
        assert all(map(np.array_equal, weights, arrays(optimizer.parameters)))
    for _ in range(3):
        optimizer(random_gradients(optimizer, rng))
    before = everything(optimizer)
    weights = arrays(optimizer.parameters)
    with pytest.raises(ZeroDivisionError), ms_adam.averaged(optimizer):
        assert not any(map(np.array_equal, weights, arrays(optimizer.parameters)))
        says = "in the network already"
        with pytest.raises(RuntimeError, match=says), ms_adam.averaged(optimizer):
            pass
        with pytest.raises(RuntimeError, match="within averaged"):
            optimizer(random_gradients(optimizer, rng))
        1 / 0  # noqa: B018
    assert same(before, everything(optimizer))
    optimizer(random_gradients(optimizer, rng))


@pytest.mark.parametrize("entering", [True, False])
def test_averaged_is_not_interrupted_half_way(entering, monkeypatch):
    """Ctrl-C while weights and averages change places comes when all have, and undoes it."""
    optimizer = make({"ema_decay": DECAY})
    for step in range(3):
        optimizer(random_gradients(optimizer, np.random.default_rng(step)))
    before, stored = everything(optimizer), []

    def interrupted(*arguments):
        stored.append(None)
        if len(stored) == (2 if entering else len(optimizer.parameters) + 2):
            os.kill(os.getpid(), signal.SIGINT)
        put(*arguments)

    put = averages._set
    monkeypatch.setattr(averages, "_set", interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
    try:
        with pytest.raises(KeyboardInterrupt), ms_adam.averaged(optimizer):
            assert not entering
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert same(before, everything(optimizer)) and not optimizer.is_averaged


def test_averaged_needs_averages():
    theirs = nn.Adam([Parameter(Tensor([1.0]), name="w")])
    with pytest.raises(ValueError, match="needs ema_decay"), ms_adam.averaged(make({})):
        pass
    with pytest.raises(TypeError, match="an optimizer of ms_adam"), ms_adam.averaged(theirs):
        pass


def test_shares_of_averages_are_those_of_one_process(tmp_path):
    """In both modes, in turn."""
    for log in run_on_two_ranks(ON_RANKS, tmp_path):
        assert "agreed: fused, flat, masters, halves, int8, composite, sums, sums of" in log
