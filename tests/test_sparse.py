"""Row-sparse gradients, exact and lazy: against float64, against nn.Adam, in both modes."""

import functools
import itertools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, RowTensor, Tensor, nn
from mindspore.common.sparse_tensor import RowTensorInner
from running import LOW_PRECISION, set_mode, to_numpy, unchanged

import ms_adam
from ms_adam import reference
from ms_adam.backends import BACKENDS
from ms_adam.compat import PYNATIVE_KEEPS_ROWS, has_shape
from ms_adam.groups import Groups
from ms_adam.state import weight_kinds

ROWS, WIDTH, STEPS = 12, 5, 6
LAZY_BACKENDS = ("fused", "composite")  # MindSpore's kernel (primitive) updates whole tables


def table(dtype="float32", name="table", seed=0):
    values = np.random.default_rng(seed).standard_normal((ROWS, WIDTH))
    return Parameter(Tensor(values, getattr(ms, dtype)), name=name)


def bias(dtype="float32"):
    return Parameter(Tensor(np.linspace(-1.0, 1.0, 3), getattr(ms, dtype)), name="bias")


def adam(dtype="float32", **options):
    return ms_adam.Adam([table(dtype), bias(dtype)], 0.01, **options)


def named_rows(steps=STEPS, dtype=np.float32, scale=1.0, seed=1):
    """For each step indices, with repetitions and without the last rows, and values."""
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(0, ROWS - 3, 7).astype(np.int32),
            (scale * rng.standard_normal((7, WIDTH))).astype(dtype),
        )
        for _ in range(steps)
    ]


def dense(indices, values):
    """The gradient of the whole table, summed in the order of the values, in their dtype."""
    gradient = np.zeros((ROWS, *values.shape[1:]), values.dtype)
    for index, value in zip(indices, values):
        gradient[index] += value
    return gradient


def given(kind, indices, values, dtype="float32"):
    if kind == "dense":
        return Tensor(dense(indices, values), getattr(ms, dtype))
    indices = Tensor(indices.astype(np.int64) if kind == "int64" else indices)
    values = Tensor(values, getattr(ms, dtype))
    if kind == "RowTensor":
        return RowTensor(indices, values, (ROWS, *values.shape[1:]))
    return indices, values


def run(optimizer, kind, steps=None, dtype="float32"):
    """Lets an optimizer of a table and a bias make steps; the bias has an ordinary gradient.

    `kind` is that of the table's gradients, or several in turn.
    """
    of_bias = Tensor([0.2, -2.0, 3.0], getattr(ms, dtype))
    kinds = itertools.cycle([kind] if isinstance(kind, str) else kind)
    for (indices, values), kind in zip(steps or named_rows(), kinds):
        optimizer((given(kind, indices, values, dtype), of_bias))
    return state_of(optimizer)


def state_of(optimizer):
    tensors = (*optimizer.parameters, *optimizer.moment1, *optimizer.moment2)
    return [to_numpy(tensor).copy() for tensor in tensors]


def assert_same_bits(states, others):
    for state, other in zip(states, others):
        assert state.tobytes() == other.tobytes()


def lazy_reference(start, steps, **options):
    """Each row is an Adam of its own that sleeps while it is not named; the step count goes on."""
    adam = reference.Adam(**options)
    weight, moment1, moment2 = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t, (indices, values) in enumerate(steps):
        for row in np.unique(indices):
            gradient = values[indices == row].astype(np.float64).sum(axis=0)
            state = reference.AdamState(t, moment1[row], moment2[row], None)
            weight[row], state = adam.step(weight[row], gradient, state)
            moment1[row], moment2[row] = state.moment1, state.moment2
    return weight, moment1, moment2


OPTIONS = {
    "default": ({}, {}),
    "nesterov": ({"use_nesterov": True}, {"nesterov": True}),
    "epsilon_hat": ({"epsilon_hat": True, "eps": 1e-3}, {"epsilon": "hat", "eps": 1e-3}),
    "L2": ({"weight_decay": 0.1}, {"weight_decay": float(np.float32(0.1))}),
    "loss scale": ({"loss_scale": 8.0}, {"loss_scale": 8.0}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", LAZY_BACKENDS)
@pytest.mark.parametrize(
    "options, kind",
    [
        *((name, "pair") for name in OPTIONS),
        *(("default", kind) for kind in ("int64", "RowTensor", "dense")),
    ],
)
def test_lazy_is_an_adam_for_each_row(options, backend, dtype, kind, mode):
    ours, theirs = OPTIONS[options]
    rate = float(np.float32(0.01))
    optimizer = adam(dtype, use_lazy=True, backend=backend, **ours)
    start = to_numpy(optimizer.parameters[0]).astype(np.float64)
    steps = named_rows(dtype=dtype)
    weight, _, moment1, _, moment2, _ = run(optimizer, kind, steps, dtype)
    expected = lazy_reference(start, steps, learning_rate=rate, **theirs)
    # A step moves a weight of size |w| by 10 rates at most here, in about 12 roundings, and rounds
    # it once; a sum of 7 values is rounded 6 times. Moments: of size 4 and 16, 3 roundings a step.
    unit = np.finfo(dtype).eps
    assert np.abs(weight - expected[0]).max() <= STEPS * unit * (
        np.abs(start).max() + 20 * 10 * rate
    )
    assert np.abs(moment1 - expected[1]).max() <= STEPS * unit * 9 * 4
    assert np.abs(moment2 - expected[2]).max() <= STEPS * unit * 9 * 16


def test_the_reference_tells_lazy_from_exact():
    """The test above could not pass if moments of sleeping rows decayed."""
    start, steps = np.ones((ROWS, WIDTH)), named_rows()
    lazy, *_ = lazy_reference(start, steps, learning_rate=0.01)
    adam, weight = reference.Adam(0.01), start
    state = adam.init(weight)
    for indices, values in steps:
        weight, state = adam.step(weight, dense(indices, values).astype(np.float64), state)
    assert np.abs(lazy - weight).max() > 0.01


@pytest.mark.parametrize("dtype", LOW_PRECISION)
@pytest.mark.parametrize("kind", ["pair", "dense"])
def test_lazy_in_low_precision(dtype, kind, mode):
    """Both backends compute in float32 and round once: the same bits, in every step."""
    states = [
        run(adam(dtype, use_lazy=True, backend=backend), kind, dtype=dtype)
        for backend in LAZY_BACKENDS
    ]
    for state, other in zip(*states):
        # where a tie or a last digit of the float32 result differs, one unit of the dtype
        unit = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
        assert np.abs(state - other).max() <= unit * np.abs(state).max()


@pytest.mark.parametrize("kind", ["pair", "dense"])
@pytest.mark.parametrize("backend", LAZY_BACKENDS)
@pytest.mark.parametrize("optimizer", [ms_adam.Adam, ms_adam.AdamW])
def test_rows_that_are_not_named_stay_as_they_are(optimizer, backend, kind, mode):
    optimizer = optimizer([table(), bias()], 0.01, use_lazy=True, weight_decay=0.1, backend=backend)
    before = state_of(optimizer)
    after = run(optimizer, kind)
    for old, new in zip(before[::2], after[::2]):  # table and its moments
        assert old[-3:].tobytes() == new[-3:].tobytes()
        assert (old[:-3] != new[:-3]).any(axis=1).all()
    assert (before[1] != after[1]).all()  # the bias has no rows: it moves as ever


NOT_LAZY = [
    *itertools.product(
        ("fused", "primitive", "composite"),
        (
            {},
            {"use_nesterov": True, "weight_decay": 0.1},
            {"max_grad_norm": 0.5, "loss_scale": 2.0},
        ),
    ),
    ("composite", {"use_amsgrad": True}),
    ("composite", {"max_grad_norm": 0.5, "flat_state": True}),
]


@pytest.mark.parametrize("number", range(len(NOT_LAZY)), ids=lambda i: str(NOT_LAZY[i]))
def test_not_lazy_equals_the_dense_gradient(number):
    """Every moment decays, and the bits are those of the gradient as a whole table."""
    set_mode(("graph", "pynative")[number % 2])  # each backend in both
    backend, options = NOT_LAZY[number]
    options = {"backend": backend, **options}
    assert_same_bits(run(adam(**options), "dense"), run(adam(**options), ("pair", "RowTensor")))


@pytest.mark.parametrize("backend", LAZY_BACKENDS)
@pytest.mark.parametrize(
    "options", [{}, {"max_grad_norm": 0.5}, {"master_weights": True}, {"flat_state": True}], ids=str
)
def test_both_ways_leave_the_same_bits(options, backend, mode):
    if "flat_state" in options:  # of lazy rows only the kernel has it
        backend = "auto"
    states = [
        run(adam(use_lazy=True, backend=backend, **options), kind) for kind in ("pair", "dense")
    ]
    assert_same_bits(*states)


@pytest.mark.parametrize("backend", LAZY_BACKENDS)
def test_rows_are_centralized_as_in_a_table(backend, mode):
    def centralizing():
        group = {"params": [table(), bias()], "grad_centralization": True}
        return ms_adam.Adam([group], 0.01, use_lazy=True, backend=backend)

    states = [run(centralizing(), kind) for kind in ("pair", "dense")]
    # the sum over a row of 5 in another order: 5 roundings, which the update repeats at its size
    for state, other in zip(*states):
        assert np.abs(state - other).max() <= 1e-6
    plain = run(adam(use_lazy=True, backend=backend), "pair")
    assert np.abs(plain[0] - states[0][0]).max() > 1e-3


def test_many_rows(mode):
    """More than one thread's share: the fused kernel against operators, and each row once."""
    rng = np.random.default_rng(3)
    start = rng.standard_normal((9_000, 64)).astype(np.float32)
    states = []
    for backend in LAZY_BACKENDS:
        weight = Parameter(Tensor(start), name="table")
        optimizer = ms_adam.Adam([weight], 0.01, use_lazy=True, backend=backend)
        rng = np.random.default_rng(4)
        for _ in range(2):
            indices = rng.integers(0, 9_000, 6_000).astype(np.int32)
            values = rng.standard_normal((6_000, 64)).astype(np.float32)
            optimizer(((Tensor(indices), Tensor(values)),))
        states.append(state_of(optimizer))
    assert_same_bits(*states)


@pytest.mark.parametrize("no_rows", filter(has_shape, [(0,), (0, WIDTH)]), ids=str)
def test_no_rows_named(no_rows, mode):
    for backend in LAZY_BACKENDS:
        weight = Parameter(Tensor(np.ones((ROWS, *no_rows[1:])), ms.float32), name="table")
        optimizer = ms_adam.Adam([weight, bias()], 0.01, use_lazy=True, backend=backend)
        before = state_of(optimizer)
        after = run(optimizer, "pair", [(np.zeros(0, np.int32), np.zeros(no_rows, np.float32))])
        assert_same_bits(before[::2], after[::2])


def test_a_table_of_numbers(mode):
    """Rows of shape (): the named elements move, the others do not."""
    for backend in LAZY_BACKENDS:
        weight = Parameter(Tensor(np.ones(4), ms.float32), name="scores")
        optimizer = ms_adam.Adam([weight], 0.1, use_lazy=True, backend=backend)
        optimizer(((Tensor([2, 2], ms.int32), Tensor([1.0, 1.0], ms.float32)),))
        # The first step of Adam is the learning rate in size.
        np.testing.assert_allclose(to_numpy(weight), [1.0, 1.0, 0.9, 1.0], rtol=1e-6)


# --- errors -------------------------------------------------------------------------------------

VALUES, TWO = Tensor(np.ones((2, WIDTH)), ms.float32), Tensor([1, 2], ms.int32)
BAD_GRADIENTS = {
    "malformed": (ValueError, VALUES, "'table' must have the parameter's shape .*PyNative.*Embed"),
    "float indices": (TypeError, (Tensor([1.0, 2.0], ms.float32), VALUES), "'table' must be int32"),
    "two axes": (ValueError, (Tensor([[1, 2]], ms.int32), VALUES), r"'table' names rows.*\(1, 2\)"),
    "too few": (ValueError, (Tensor([1], ms.int32), VALUES), r"\(n, \.\.\.\), but got \(1,\)"),
    "width": (ValueError, (TWO, Tensor(np.ones((2, 3)), ms.float32)), "'table'"),
    "integers": (TypeError, (TWO, VALUES.astype(ms.int32)), "'table' must be float16"),
    "one part": (ValueError, (TWO,), "pair.*'table' has 1 parts"),
}


@pytest.mark.parametrize("name", BAD_GRADIENTS)
def test_bad_gradients_are_refused_and_change_nothing(name, mode):
    error, gradient, message = BAD_GRADIENTS[name]
    optimizer = adam(use_lazy=True)
    with unchanged(optimizer), pytest.raises(error, match=message):
        optimizer((gradient, Tensor([1.0, 1.0, 1.0], ms.float32)))


@pytest.mark.parametrize("row, lazy", [(-1, True), (ROWS, False)])
def test_a_row_that_is_not_there(row, lazy, mode, capfd):
    optimizer = adam(use_lazy=lazy, backend="fused")
    rows = (np.array([1, row], np.int32), np.ones((2, WIDTH), np.float32))
    with unchanged(optimizer), pytest.raises(RuntimeError) as error:
        run(optimizer, "pair", [rows])
    if optimizer.launch == "by address":
        assert f"names row {row}, but the parameter has {ROWS} rows" in str(error.value)
    else:  # MindSpore only says which function returned which number
        assert f"names row {row} of a table of {ROWS} rows" in capfd.readouterr().err


# --- whole trainings ----------------------------------------------------------------------------


class Words(nn.Cell):
    """Squares of the sums of word vectors, put through a dense layer."""

    def __init__(self, sparse):
        super().__init__()
        lookup = nn.EmbeddingLookup(ROWS, WIDTH, sparse=True)
        self.embedding = lookup if sparse else nn.Embedding(ROWS, WIDTH)
        self.dense = nn.Dense(WIDTH, 2)
        rng = np.random.default_rng(0)
        for parameter in self.trainable_params():
            parameter.set_data(Tensor(rng.standard_normal(parameter.shape), ms.float32))

    def construct(self, words):
        return self.dense(self.embedding(words)).square().sum()


class TrainStep(nn.Cell):
    def __init__(self, network, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.gradient = ms.grad(network, None, optimizer.parameters)

    def construct(self, words):
        return self.optimizer(self.gradient(words))


def train(make, sparse, target=None, compiled=True):
    """The network's parameters after some steps; words are repeated within a step."""
    network = Words(sparse)
    optimizer = make(network.trainable_params())
    if target:
        optimizer.target = target
    gradient = ms.grad(network, None, optimizer.parameters)
    step = TrainStep(network, optimizer) if compiled else lambda words: optimizer(gradient(words))
    rng = np.random.default_rng(2)
    for _ in range(STEPS):
        step(Tensor(rng.integers(0, ROWS, 9), ms.int32))
    return [to_numpy(parameter).copy() for parameter in network.trainable_params()]


def test_nn_adam_does_not_sum_repeated_rows_by_default():
    """Ours is the same under every target."""
    ms.set_context(mode=ms.GRAPH_MODE)
    theirs, ours = (
        [
            train(functools.partial(make, learning_rate=0.01, use_lazy=True), True, to)
            for to in ("CPU", None)
        ]
        for make in (nn.Adam, ms_adam.Adam)
    )
    assert max(np.abs(a - b).max() for a, b in zip(*theirs)) > 1e-3
    assert_same_bits(*ours)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("backend", LAZY_BACKENDS)
def test_graph_and_pynative_leave_the_same_bits(backend, lazy):
    """Row-sparse in a graph, dense in a graph, dense in PyNative: on the same data."""

    def make(parameters):
        return ms_adam.Adam(parameters, 0.01, use_lazy=lazy, backend=backend)

    ms.set_context(mode=ms.GRAPH_MODE)
    in_graph = train(make, True)
    assert_same_bits(in_graph, train(make, False))
    # differentiated in a graph, handed over from Python
    assert_same_bits(in_graph, train(make, True, compiled=False))
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert_same_bits(in_graph, train(make, False, compiled=False))


class HandedRows(nn.Cell):
    """A step whose gradient is a RowTensor made in the graph, and known at once."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, indices, values, other):
        return self.optimizer((RowTensorInner(indices, values, (ROWS, WIDTH)), other))


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("backend", LAZY_BACKENDS)
def test_a_row_tensor_made_in_a_graph(backend, lazy):
    ms.set_context(mode=ms.GRAPH_MODE)
    handed, made = (adam(use_lazy=lazy, backend=backend) for _ in range(2))
    step = HandedRows(made)
    for indices, values in named_rows():
        step(Tensor(indices), Tensor(values), Tensor([0.2, -2.0, 3.0], ms.float32))
    assert_same_bits(run(handed, "pair"), state_of(made))


def test_row_sparse_gradients_of_pynative_are_right_or_refused():
    def make(parameters):
        return ms_adam.Adam(parameters, 0.01, use_lazy=True)

    ms.set_context(mode=ms.PYNATIVE_MODE)
    if PYNATIVE_KEEPS_ROWS:
        assert_same_bits(train(make, True, compiled=False), train(make, False, compiled=False))
    else:
        with pytest.raises(ValueError, match="loses their row numbers. Use nn.Embedding"):
            train(make, True, compiled=False)


# --- offload ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["fused", "primitive", "composite"])
@pytest.mark.parametrize("kind", ["dense", "pair"])
def test_offload_leaves_the_same_bits(kind, backend, mode):
    states = [run(adam(use_offload=offload, backend=backend), kind) for offload in (False, True)]
    assert_same_bits(*states)


def test_offload_computes_on_the_host():
    """Of composite, the one backend for offload from another device: what touches moments."""
    from ms_adam.backends.composite import CompositeBatch

    optimizer = ms_adam.Adam([table()], backend="composite")
    batch = optimizer.update.batches[0]
    execution = optimizer.execution._replace(on_host=True)
    groups = Groups((0,), (optimizer.formula,), (False,), (False,), ((0, ROWS),))
    placed = CompositeBatch(optimizer.formula, execution, optimizer.state, [0], groups, "GPU")
    names = ("square", "sqrt", "add", "mul", "div", "assign", "lerp")
    assert all(getattr(placed, name).attrs["primitive_target"] == "CPU" for name in names)
    assert all("primitive_target" not in getattr(batch, name).attrs for name in names)
    assert "primitive_target" not in placed.store.attrs  # the parameter is the device's
    kinds = weight_kinds(optimizer.parameters, masters=False)
    for backend in BACKENDS.values():
        refuses = backend.obstacle(optimizer.formula, execution, kinds, "GPU") is not None
        assert refuses == (not backend.capabilities.offload)
