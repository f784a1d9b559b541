"""What users of `nn.Adam` expect of the optimizer: arguments, groups, schedules, training loops."""

import functools
import inspect

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule
from running import (
    ALL_BACKENDS,
    as_tensors,
    float32,
    follow,
    make_parameters,
    run,
    snapshot,
    to_numpy,
    unchanged,
    whole_state,
)

import ms_adam
from ms_adam import backends, reference
from ms_adam.backends.fused import kernel_library
from ms_adam.compat import HAS_BFLOAT16, HAS_SHARDING, RELEASE, SELECT_BROADCASTS
from ms_adam.lab.studies.matrix.cases import gradients

OPTIMIZERS = (ms_adam.Adam, ms_adam.AdamW)


def parameters(*shapes, dtype="float32"):
    return make_parameters(shapes or ((2, 3), (4,)), dtype)


def assert_follows(optimizer, expected, steps=3):
    """Within the roundings of a few float32 steps: of weights of size 1 to 4, each step 2^-24 * 4,
    and of updates of size lr with 20 roundings each."""
    tolerance = steps * (4 * 2.0**-24 + 0.1 * 20 * 2.0**-24)
    for parameter, want in zip(optimizer.parameters, expected):
        np.testing.assert_allclose(to_numpy(parameter), want, rtol=0, atol=tolerance)


# --- arguments ---------------------------------------------------------------------------------

LEAVES_OUT = "cannot leave a step out|a step is left out"  # the latter in 2.0.0
BAD_ARGUMENTS = [
    (TypeError, {"beta1": 1}, "beta1"),
    (TypeError, {"beta2": "0.9"}, "beta2"),
    (TypeError, {"eps": 1}, "eps"),
    (TypeError, {"loss_scale": "1"}, "'loss_scale' must be a float, a loss scaler"),
    (TypeError, {"loss_scale": True}, "loss_scale"),
    (TypeError, {"weight_decay": "0"}, "(?i)weight_decay"),
    (TypeError, {"learning_rate": "0.1"}, "float|learning"),
    (TypeError, {"learning_rate": None}, "learning_rate"),
    (TypeError, {"use_locking": 1}, "use_locking"),
    (TypeError, {"use_nesterov": 1}, "use_nesterov"),
    (TypeError, {"use_amsgrad": None}, "use_amsgrad"),
    (TypeError, {"use_lazy": 0}, "use_lazy"),
    (TypeError, {"use_offload": "no"}, "use_offload"),
    (TypeError, {"epsilon_hat": 1}, "epsilon_hat"),
    (TypeError, {"bias_correction": 1}, "bias_correction"),
    (TypeError, {"master_weights": 1}, "master_weights"),
    (TypeError, {"backend": None}, "backend"),
    (TypeError, {"betas": 0.9}, "betas"),
    (TypeError, {"betas": (0.9,)}, "betas"),
    (TypeError, {"lr": 0.1, "learning_rate": 0.1}, "'lr' and 'learning_rate'"),
    (TypeError, {"lr": 1e-3, "learning_rate": 1e-3}, "'lr' and 'learning_rate'"),
    (TypeError, {"betas": (0.9, 0.999), "beta2": 0.999}, "'betas' and 'beta2'"),
    (ValueError, {"beta1": 1.0}, r"'beta1'.*\[0.0, 1.0\).*1.0"),
    (ValueError, {"beta2": -0.1}, "'beta2'.*-0.1"),
    (ValueError, {"beta1": float("nan")}, "'beta1'.*nan"),
    (ValueError, {"betas": (0.9, 1.5)}, "'beta2'.*1.5"),
    (ValueError, {"eps": 0.0}, "'eps'.*0.0"),
    (ValueError, {"eps": float("inf")}, "'eps'.*inf"),
    (TypeError, {"max_grad_norm": "1"}, "max_grad_norm"),
    (ValueError, {"max_grad_norm": 0}, "'max_grad_norm'.*0.0"),
    (ValueError, {"loss_scale": 0.0}, "'loss_scale'.*0.0"),
    (ValueError, {"loss_scale": -1}, "'loss_scale'.*-1.0"),
    (ValueError, {"weight_decay": -0.1}, "weight_decay.*-0.1"),
    (ValueError, {"learning_rate": -0.1}, "learning rate.*-0.1"),
    (
        ValueError,
        {"learning_rate": Tensor(np.ones((2, 2)), ms.float32)},
        "must be a number, a list",
    ),
    (ValueError, {"learning_rate": [[0.1]]}, "must be a number, a list or Tensor of one for each"),
    (TypeError, {"learning_rate": [0.1, "a"]}, "must be a number, a list or Tensor of one for"),
    (ValueError, {"learning_rate": []}, "'learning_rate' must be finite .* but got none"),
    (ValueError, {"learning_rate": [0.1, -0.5]}, "not negative, but got -0.5 for step 1"),
    (ValueError, {"lr": Tensor([np.nan], ms.float32)}, "not negative, but got nan for step 0"),
    (TypeError, {"skip_nonfinite": 1}, "'skip_nonfinite' must be True or False"),
    (ValueError, {"ema_decay": 1.0}, "'ema_decay' must be"),
    (TypeError, {"ema_decay": [0.9]}, "'ema_decay' must be a float or a Cell"),
    *(
        (ValueError, {"accumulate_steps": steps}, r"'accumulate_steps' must be in the range \[1, 2")
        for steps in (0, -1, 2**31)
    ),
    *(
        (TypeError, {"accumulate_steps": steps}, "'accumulate_steps' must be an int")
        for steps in (True, 2.0, "2")
    ),
    (TypeError, {"master_weights": "halves"}, 'must be True, False or "split", but'),
    (ValueError, {"state_dtype": "int4"}, "one of 'float32', 'bfloat16', 'int8', but got"),
    (ValueError, {"backend": "fastest"}, "'auto'.*'fastest'"),
    (KeyError, {"use_lasy": True}, "use_lasy"),
    *(  # what a backend cannot do
        (ValueError, options, reason)
        for options, reason in (
            ({"skip_nonfinite": True, "backend": "primitive"}, LEAVES_OUT),
            ({"accumulate_steps": 2, "backend": "primitive"}, LEAVES_OUT),
            ({"use_lazy": True, "backend": "primitive"}, "cannot run here.*whole tables"),
            ({"flat_state": True, "backend": "primitive"}, "'fused' or 'composite'.*'primitive'"),
            ({"state_dtype": "int8", "backend": "primitive"}, "does not keep moments in int8"),
            ({"state_dtype": "int8", "backend": "composite"}, "no operator of a graph reads"),
            ({"state_dtype": "int8", "use_lazy": True}, "rows that are skipped would change"),
            ({"state_dtype": "int8", "flat_state": True}, "no place for the exponents of int8"),
            (
                {"use_lazy": True, "flat_state": True, "backend": "composite"},
                "cannot run here: rows that are skipped need moments of",
            ),
        )
    ),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "error, arguments, message",
    BAD_ARGUMENTS,
    ids=[str(arguments) for _, arguments, _ in BAD_ARGUMENTS],
)
def test_bad_argument(optimizer, error, arguments, message):
    with pytest.raises(error, match=message):
        optimizer(parameters(), **arguments)


def test_shards_need_ranks():
    error, says = (
        (RuntimeError, "shard_state=True.*communication.init.*msrun")
        if HAS_SHARDING
        else (NotImplementedError, f"shard_state=True needs .* this is {RELEASE}")
    )
    with pytest.raises(error, match=says):
        ms_adam.Adam(parameters(), shard_state=True)


def test_bad_parameters():
    a, b = parameters()
    integer = Parameter(Tensor(np.ones(3), ms.int32), name="counts")
    for error, params, message in [
        (ValueError, None, "None"),
        (ValueError, [], "empty"),
        (TypeError, 3, "must be a list of Parameters, .* but got int"),
        (TypeError, a, "must be a list of Parameters, .* but got Parameter"),
        (TypeError, nn.Dense(2, 2), r"network.trainable_params\(\), .* but got Dense"),
        (TypeError, [a, {"params": [b]}], "all groups .* but number 1 is a dict"),
        (KeyError, [{"params": [a]}, {"lr": 0.1}], "group 1 lacks 'params'; it has 'lr'"),
        (ValueError, [{"params": [a], "lr": [-1.0]}], "'lr' must be finite .* -1.0 for step 0"),
        (TypeError, [a, "b"], "Parameter"),
        (TypeError, [1.0], "Parameter"),
        (RuntimeError, [a, a], "layer0.weight.*twice"),
        (RuntimeError, [{"params": [a]}, {"params": [a]}], "layer0.weight"),
        (KeyError, [{"params": [a], "rate": 0.1}], "rate"),
        (ValueError, [{"params": []}], "empty"),
        (TypeError, [integer], "counts.*Int32"),
        (TypeError, [{"params": [a], "grad_centralization": 1}], "bool"),
        (ValueError, [{"params": [a], "lr": -1.0}], "-1.0"),
        (TypeError, [{"params": [a], "betas": 0.9}], "'betas' must be two floats"),
        (ValueError, [{"params": [a], "betas": (0.9, 1.0)}], r"'beta2' must be .*\), but got 1.0"),
        (ValueError, [{"params": [a], "eps": 0.0}], "'eps' must be finite and greater than 0"),
        (TypeError, [{"params": [a], "maximize": 1}], "'maximize' must be True or False"),
        (KeyError, [{"params": [a], "beta1": 0.9}], "beta1"),
    ]:
        with pytest.raises(error, match=message):
            ms_adam.Adam(params)


ONE, TWO = (Tensor(np.ones(shape), ms.float32) for shape in ((3,), (5, 2)))
BAD_GRADIENTS = {
    "shape": ((ONE, ONE), ValueError, r"'layer1.weight' must have .* \(5, 2\), but got \(3,\)"),
    "broadcast": ((ONE, TWO[:1]), ValueError, r"\(5, 2\).*\(1, 2\)"),
    "dtype": ((ONE.astype(ms.int32), TWO), TypeError, "'layer0.weight' must be .*float16.*Int32"),
    "no gradients": ((), ValueError, "each of the 2 parameters, but got 0"),
    "too few": ((ONE,), ValueError, "each of the 2 parameters, but got 1"),
    "too many": ((ONE, TWO, TWO), ValueError, "but got 3"),
    "bare tensor": (ONE, TypeError, "must be a tuple or list .*, but got one Tensor of shape "),
    "array": ((ONE.asnumpy(), TWO), TypeError, "'layer0.weight' must be .* NumPy array of shape"),
    "none": ((ONE, None), TypeError, "'layer1.weight' must be .*, but got None.+does the loss"),
    "rows": ((ONE, (ONE[:1], TWO[:1])), TypeError, "indices .*int32 or int64"),
}


@functools.cache  # one compilation for all gradients
def used(backend, optimizer_class, mode):
    """An optimizer that has made steps in a mode."""
    optimizer = optimizer_class(parameters((3,), (5, 2)), backend=backend)
    run(optimizer)
    return optimizer


@pytest.mark.parametrize("name", BAD_GRADIENTS)
@pytest.mark.parametrize(
    "backend, optimizer_class", [*zip(ALL_BACKENDS, [ms_adam.Adam] * 3), ("fused", ms_adam.AdamW)]
)
def test_bad_gradient_leaves_the_state_alone(name, backend, optimizer_class, mode):
    optimizer = used(backend, optimizer_class, mode)
    steps = int(optimizer.global_step)
    gradients, error, message = BAD_GRADIENTS[name]
    says = f"For '{optimizer_class.__name__}', .*{message}"
    with unchanged(optimizer), pytest.raises(error, match=says):
        optimizer(gradients)
    run(optimizer)  # and it goes on
    assert int(optimizer.global_step) == steps + 3


def test_both_spellings_give_the_same():
    old = ms_adam.Adam(parameters(), 0.01, 0.8, 0.99)
    new = ms_adam.Adam(parameters(), lr=0.01, betas=(0.8, 0.99))
    run(old), run(new)
    np.testing.assert_equal(whole_state(new), whole_state(old))


FACES = [(ms_adam.Adam, nn.Adam), (ms_adam.AdamW, nn.Adam), (ms_adam.AdaMax, nn.AdaMax)]


@pytest.mark.parametrize("ours, theirs", FACES)
def test_positional_order_and_defaults_are_those_of_mindspore(ours, theirs):
    # MindSpore's __init__ is a wrapper of (self, *args, **kwargs) around the one that it documents.
    documented = inspect.getclosurevars(theirs.__init__).nonlocals["fn"]
    here, there = (inspect.signature(it).parameters for it in (ours.__init__, documented))
    positional = [p for p in there.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional][:4] == ["self", "params", "learning_rate", "beta1"]
    assert [p.name for p in positional] == list(here)[: len(positional)]
    for p in positional:
        if (ours, p.name) != (ms_adam.AdamW, "weight_decay"):
            assert here[p.name].default == p.default


@pytest.mark.parametrize("ours, theirs", FACES)
def test_state_has_the_names_and_shapes_of_mindspore(ours, theirs):
    options = {} if ours is ms_adam.AdaMax else {"use_amsgrad": True}
    here, there = (
        {p.name: p.shape for p in make(parameters((2, 3), ()), **options).get_parameters()}
        for make in (ours, theirs)
    )
    assert here == {**there, "update_count": (1,), "counted_power": ()}


# --- groups and schedules ----------------------------------------------------------------------


def test_decay_spares_beta_and_gamma_without_groups(mode):
    named = [
        Parameter(Tensor(np.ones(3), ms.float32), name=name)
        for name in ("norm.gamma", "norm.beta", "dense.weight")
    ]
    optimizer = ms_adam.AdamW(named, learning_rate=0.5, weight_decay=0.5)
    optimizer(tuple(Tensor(np.zeros(3), ms.float32) for _ in named))
    assert [float(p.asnumpy()[0]) for p in named] == [1.0, 1.0, 0.75]


class Decay(nn.Cell):
    """Weight decay 0.1, 0.05, 0.0333 ..., as a user would write it."""

    def construct(self, step):
        return Tensor(0.1, ms.float32) / (step + 1).astype(ms.float32)


RATES = [0.1, 0.03, 0.02, 0.3]
RATES_TAKEN = [float32(rate) for rate in RATES]
DECAYS = [float(np.float32(0.1) / np.float32(t + 1)) for t in range(4)]


class Table(LearningRateSchedule):
    """Looks the learning rates up in an array of NumPy, which are float64."""

    def __init__(self):
        super().__init__()
        self.rates = Tensor(np.array(RATES))

    def construct(self, step):
        return ops.gather(self.rates, step, 0)


def scheduled(kind):
    """A learning rate and its value in each step."""
    if kind == "schedule":
        # What MindSpore's schedule itself computes is not in question here.
        return nn.ExponentialDecayLR(0.1, 0.5, 1), [0.1 * 0.5**t for t in range(4)]
    makers = {
        "list": list,
        "iterator": iter,
        "tuple": tuple,
        "array": np.array,
        "tensor": functools.partial(Tensor, dtype=ms.float32),
        "table": lambda rates: Table(),
    }
    return makers[kind](RATES), RATES_TAKEN


@pytest.mark.parametrize(
    "kind", ["list", "tuple", "iterator", "array", "tensor", "schedule", "table"]
)
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_learning_rate_schedules(kind, backend, mode):
    rate, values = scheduled(kind)
    optimizer = ms_adam.Adam(parameters(), rate, weight_decay=Decay(), backend=backend)
    start = [to_numpy(p) for p in optimizer.parameters]
    fed = run(optimizer, 4)
    assert int(optimizer.global_step) == 4
    expected = follow(reference.Adam(), start, fed, learning_rate=values, weight_decay=DECAYS)
    assert_follows(optimizer, expected, 4)


@pytest.mark.parametrize("kind", [float, int, lambda x: Tensor(x, ms.float32)])
def test_fixed_learning_rates(kind, mode):
    optimizer = ms_adam.Adam(parameters(), kind(1))
    start = [to_numpy(p) for p in optimizer.parameters]
    assert_follows(optimizer, follow(reference.Adam(1.0), start, run(optimizer)), 10)


@pytest.mark.parametrize("bad", [1.0, np.nan])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_clipping_is_that_of_mindspore(bad, backend, mode):
    """Also of a norm that is NaN, which clips nothing. With beta1 = 0 a moment is the gradient."""
    optimizer = ms_adam.Adam(parameters(), beta1=0.0, max_grad_norm=1.0, backend=backend)
    wrong = np.ones((2, 3))
    wrong[1, 1] = bad
    gradient = (Tensor(wrong, ms.float32), Tensor(np.ones(4), ms.float32))
    optimizer(gradient)
    for found, wanted in zip(optimizer.moment1, ops.clip_by_global_norm(list(gradient), 1.0)):
        np.testing.assert_allclose(to_numpy(found), to_numpy(wanted), rtol=6 * 2.0**-24)


# --- master weights ----------------------------------------------------------------------------


def test_master_weights_of_wide_parameters_are_the_parameters():
    optimizer = ms_adam.Adam(parameters(), master_weights=True)
    assert all(w is p for w, p in zip(optimizer.master_weights, optimizer.parameters))


# --- in training -------------------------------------------------------------------------------


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(
            3,
            2,
            weight_init=Tensor(np.linspace(-1, 1, 6).reshape(2, 3), ms.float32),
            bias_init="zeros",
        )

    def construct(self, x):
        return self.dense(x)


def data(batches=6):
    rng = np.random.default_rng(5)
    return [
        (
            Tensor(rng.standard_normal((4, 3)), ms.float32),
            Tensor(rng.standard_normal((4, 2)), ms.float32),
        )
        for _ in range(batches)
    ]


def by_hand(batches):
    """Weights after Adam on the mean squared error of `Net`, in NumPy float64."""
    w, b = np.linspace(-1, 1, 6).reshape(2, 3).astype(np.float32).astype(float), np.zeros(2)
    adam = reference.Adam(float32(0.01))
    states = [adam.init(w), adam.init(b)]
    for x, y in batches:
        x, y = to_numpy(x), to_numpy(y)
        error = 2 * (x @ w.T + b - y) / y.size
        w, states[0] = adam.step(w, error.T @ x, states[0])
        b, states[1] = adam.step(b, error.sum(0), states[1])
    return [w, b]


def train_one_step_cell(net, optimizer, batches):
    step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer)
    for x, y in batches:
        step(x, y)


def train_model(net, optimizer, batches):
    import mindspore.dataset as ds

    source = ds.GeneratorDataset(
        lambda: ((x.asnumpy(), y.asnumpy()) for x, y in batches), ["x", "y"], shuffle=False
    )
    ms.Model(net, nn.MSELoss(), optimizer).train(1, source, dataset_sink_mode=False)


def train_value_and_grad(net, optimizer, batches, prepare=lambda step: step):
    loss = nn.MSELoss()

    def forward(x, y):
        return loss(net(x), y)

    gradient = ms.value_and_grad(forward, None, optimizer.parameters)

    def step(x, y):
        value, gradients = gradient(x, y)
        optimizer(gradients)
        return value

    step = prepare(step)
    for x, y in batches:
        step(x, y)


def train_jit(net, optimizer, batches):
    train_value_and_grad(net, optimizer, batches, prepare=ms.jit)


def train_with_fixed_loss_scale(net, optimizer, batches):
    manager = ms.amp.FixedLossScaleManager(1024.0, drop_overflow_update=False)
    step = ms.amp.build_train_network(
        net, optimizer, nn.MSELoss(), level="O0", loss_scale_manager=manager
    )
    for x, y in batches:
        step(x, y)


@pytest.mark.parametrize(
    "train",
    [
        train_one_step_cell,
        train_model,
        train_value_and_grad,
        train_jit,
        train_with_fixed_loss_scale,
    ],
)
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_training(train, backend, mode):
    batches = data()
    net = Net()
    scale = 1024.0 if train is train_with_fixed_loss_scale else 1.0
    optimizer = ms_adam.Adam(net.trainable_params(), 0.01, loss_scale=scale, backend=backend)
    train(net, optimizer, batches)
    assert int(optimizer.global_step) == len(batches)
    # The gradients are computed in float32 from weights that already differ by a rounding; with
    # |g| of size 0.1 to 1 a relative error of 1e-6 in g moves the weight by 1e-6 of a step of 0.01.
    for parameter, want in zip(net.trainable_params(), by_hand(batches)):
        np.testing.assert_allclose(to_numpy(parameter), want, rtol=0, atol=6 * (1e-7 + 1e-7))


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_overflow_under_dynamic_loss_scaling_makes_no_step(backend, mode):
    net = Net()
    optimizer = ms_adam.Adam(net.trainable_params(), 0.01, backend=backend)
    scaler = ms.amp.DynamicLossScaler(scale_value=2.0**10, scale_factor=2, scale_window=100)
    loss = nn.MSELoss()

    def forward(x, y):
        return scaler.scale(loss(net(x), y))

    gradient = ms.value_and_grad(forward, None, optimizer.parameters)

    @ms.jit
    def step(x, y):
        value, gradients = gradient(x, y)
        gradients = scaler.unscale(gradients)
        finite = ms.amp.all_finite(gradients)
        if finite:
            optimizer(gradients)
        scaler.adjust(finite)
        return finite

    x, y = data(1)[0]
    assert bool(step(x, y))
    with unchanged(optimizer):
        assert not bool(step(Tensor(np.full((4, 3), np.inf), ms.float32), y))
    assert float(scaler.scale_value) == 2.0**9
    assert bool(step(x, y))
    assert int(optimizer.global_step) == 2


# --- habits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_gradients_are_not_modified(backend, mode):
    optimizer = ms_adam.AdamW(parameters(), use_nesterov=True, loss_scale=2.0, backend=backend)
    tensors, exact = as_tensors(gradients([(2, 3), (4,)], 1)[0], "float32")
    optimizer(tensors)
    np.testing.assert_equal([to_numpy(tensor) for tensor in tensors], list(exact))


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_zero_gradients_from_the_start_leave_parameters(backend, mode):
    optimizer = ms_adam.Adam(parameters(), 0.1, backend=backend)
    start = snapshot(optimizer).weights
    for _ in range(3):
        optimizer((Tensor(np.zeros((2, 3)), ms.float32), Tensor(np.zeros(4), ms.float32)))
    np.testing.assert_equal(snapshot(optimizer).weights, start)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_nan_and_inf_stay_in_their_element(bad, backend, mode):
    """m = v = inf gives inf / inf; the neighbours of the element step as ever."""
    poisoned, clean = (ms_adam.Adam(parameters((37,)), backend=backend) for _ in range(2))
    gradient = np.linspace(-1, 1, 37)
    wrong = gradient.copy()
    wrong[5] = bad
    for _ in range(2):
        poisoned(as_tensors([wrong], "float32")[0])
        clean(as_tensors([gradient], "float32")[0])
    got, want = to_numpy(poisoned.parameters[0]), to_numpy(clean.parameters[0])
    assert np.isnan(got[5])
    np.testing.assert_array_equal(np.delete(got, 5), np.delete(want, 5))


@pytest.mark.parametrize("optimizer_class", OPTIMIZERS)
def test_repr_names_what_matters(optimizer_class):
    text = repr(optimizer_class(parameters(), eps=1e-7, use_amsgrad=True, backend="composite"))
    for word in (optimizer_class.__name__, "eps=1e-07", "amsgrad", "composite", "2 parameters"):
        assert word in text


def test_auto_takes_the_fastest_that_can_run():
    fastest = "primitive" if kernel_library()[0] is None else "fused"
    assert ms_adam.Adam(parameters()).backend == fastest
    with pytest.raises(ValueError, match="cannot run here.*layer0.weight.*Float16"):
        ms_adam.Adam(parameters(dtype="float16"), backend="primitive")


@pytest.fixture
def for_a_gpu(monkeypatch):
    """Optimizers are made as on a GPU, of whose operators none is run."""
    init = nn.Optimizer.__init__

    def init_there(self, *arguments, **options):
        init(self, *arguments, **options)
        self._target = "GPU"

    monkeypatch.setattr(nn.Optimizer, "__init__", init_there)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this release has no bfloat16")
@pytest.mark.parametrize("options", [{}, {"master_weights": True}, {"use_offload": True}])
@pytest.mark.parametrize("backend", ["auto", "primitive", "composite"])
def test_bfloat16_is_refused_on_a_gpu(for_a_gpu, options, backend):
    class Mine(ms_adam.AdamW):
        pass

    mixed = [
        Parameter(Tensor([1.0], getattr(ms, dtype)), name=dtype)
        for dtype in ("float32", "bfloat16")
    ]
    named = "no backend can" if backend == "auto" else f"backend='{backend}' cannot"
    with pytest.raises(ValueError) as refusal:
        Mine(mixed, backend=backend, **options)
    assert str(refusal.value) == (
        f"For 'Mine', {named} run here: MindSpore has no BFloat16 kernels for GPU, and the "
        "parameter 'bfloat16' is BFloat16: it must be float16, float32 or float64 there."
    )


@pytest.mark.skipif(not SELECT_BROADCASTS, reason="this release leaves no step out by operators")
def test_flat_state_is_advised_where_operators_run(for_a_gpu, monkeypatch):
    told = []
    monkeypatch.setattr(backends, "_warn_once", told.append)
    for number, options in (
        (49, {"skip_nonfinite": True}),
        (50, {"use_lazy": True}),  # refused together with flat state
        (50, {"skip_nonfinite": True, "backend": "composite"}),
        (50, {"skip_nonfinite": True, "flat_state": True}),
        (50, {}),  # primitive can run
        (50, {"skip_nonfinite": True}),
    ):
        assert not told, options
        optimizer = ms_adam.Adam(parameters(*[(2,)] * number), **options)
    assert optimizer.backend == "composite" and len(told) == 1
    assert "for each of 50 parameters" in told[0] and "flat_state=True" in told[0]
