"""Narrow state: formats, rounding that keeps the mean, and what it refuses.

The bound on each step, over options and dtypes, is in the acceptance matrix.
"""

import ctypes
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from backends.kernel.launching import stored, value
from mindspore import Parameter, Tensor
from running import bits, excess, make_optimizer, make_parameters, step_of, unchanged

import ms_adam
from ms_adam import narrow
from ms_adam.backends import toolchain
from ms_adam.backends.fused import SOURCE, kernel_library
from ms_adam.checkpoint import slots
from ms_adam.compat import HAS_BFLOAT16
from ms_adam.lab.studies.matrix.cases import SCHEMES

SHAPES = [(300, 7), (5,), (1000,), ()]
NARROW = ("bfloat16", "int8") if HAS_BFLOAT16 else ("int8",)
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="MindSpore 2.0 has no bfloat16")
needs_kernel = pytest.mark.skipif(kernel_library()[0] is None, reason="no C++ compiler")
pytestmark = needs_kernel


def make(dtype="float32", shapes=SHAPES, **options):
    rng = np.random.default_rng(1)
    parameters = [
        Parameter(Tensor(rng.standard_normal(shape), getattr(ms, dtype)), name=f"p{i}")
        for i, shape in enumerate(shapes)
    ]
    return ms_adam.Adam(parameters, learning_rate=1e-2, **options)


def gradients(step, dtype="float32", shapes=SHAPES, exponents=(-18, 3)):
    rng = np.random.default_rng(step)
    return tuple(
        Tensor(rng.standard_normal(shape) * 10.0 ** rng.integers(*exponents), getattr(ms, dtype))
        for shape in shapes
    )


def moment(optimizer, name):
    return slots(optimizer)[name].rows


# --- formats -------------------------------------------------------------------------------------


def test_master_weights_in_halves_are_a_bijection(tmp_path, monkeypatch):
    """All 2^32 patterns."""
    monkeypatch.setenv("MS_ADAM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "halves"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("*.cc"))
    shutil.copy(Path(__file__).parent / "backends" / "kernel" / "halves.cc", folder)
    library = ctypes.CDLL(str(toolchain.build(folder)))
    library.WrongHalves.restype = ctypes.c_int64
    assert library.WrongHalves() == 0


def test_numpy_takes_masters_apart_as_the_kernel_does():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 100_000, dtype=np.uint32)
    master = np.concatenate([bits.view(np.float32), np.float32([0.0, -0.0, np.inf, -np.inf])])
    master = master[~np.isnan(master)]
    parameter, trailing = narrow.halves_of(master)
    again = narrow.whole_from(parameter, trailing)
    np.testing.assert_array_equal(again.view(np.uint32), master.view(np.uint32))
    assert not np.any(parameter.view(np.uint32) & 0xFFFF)
    # Half of its unit is the most that a rounding to nearest takes from a number.
    normal = (np.abs(master) > 1e-30) & (np.abs(master) < 1e38)
    apart = np.abs(parameter[normal].astype(float) - master[normal])
    assert np.all(apart <= 2.0**-8 * np.abs(master[normal]))


@pytest.mark.parametrize("is_signed", [True, False])
def test_bytes_come_back_as_they_are(is_signed):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, 1000).astype(np.uint8)
    if is_signed:
        codes[codes == 0x80] = 0  # -0 is written, and read as a 0 with a sign
    encoded = np.concatenate([codes, rng.integers(1, 220, 4).astype(np.uint8)])
    values = narrow.from_bytes(encoded, 1000, is_signed)
    again = narrow.from_bytes(narrow.to_bytes(values, is_signed), 1000, is_signed)
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("is_signed, places", [(True, 15), (False, 31)])
def test_bytes_are_within_half_a_step(is_signed, places):
    """Three binary places after the first; below the smallest number, half of that."""
    rng = np.random.default_rng(0)
    values = np.float32(rng.standard_normal(512) * 10.0 ** rng.uniform(-8, 0, 512))
    values = values if is_signed else np.abs(values)
    got = narrow.from_bytes(narrow.to_bytes(values, is_signed), 512, is_signed)
    smallest = np.repeat(2.0 ** (np.floor(np.log2(np.abs(values).reshape(2, 256).max(1))) + 1), 256)
    step = np.maximum(2.0 ** (np.floor(np.log2(np.abs(values))) - 3), smallest * 2.0**-places)
    assert np.all(np.abs(got - values) <= step * (0.5 if is_signed else 1.0))
    assert is_signed or np.all(got > 0)


@pytest.mark.parametrize("state_dtype", ["float32", *NARROW])
def test_bytes_of_state_for_each_parameter(state_dtype):
    size = {"float32": 8.0, "bfloat16": 4.0, "int8": 2.1}[state_dtype]
    optimizer = make(shapes=[(1000, 100)], state_dtype=state_dtype)
    widths = {"uint8": 1, "bfloat16": 2, "float32": 4}
    buffers = (optimizer.moment1[0], optimizer.moment2[0])
    assert sum(b.size * widths[str(b.dtype).lower()] for b in buffers) <= size * 100_000


@needs_bfloat16
def test_halves_take_two_bytes_less_and_are_the_same_masters():
    whole, halves = (make("bfloat16", master_weights=kind) for kind in (True, "split"))
    for step in range(1000):
        fed = gradients(step, "bfloat16", exponents=(-3, 1))
        whole(fed)
        halves(fed)
    for i in range(len(SHAPES)):
        master = moment(halves, f"master_weight.p{i}")
        np.testing.assert_array_equal(master, moment(whole, f"master_weight.p{i}"))
        assert str(halves.trailing_bits[i].dtype) == "Int16"
        parameter = halves.parameters[i].astype(ms.float32).asnumpy()
        np.testing.assert_array_equal(parameter, narrow.halves_of(master)[0])


# --- rounding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state_dtype", NARROW)
def test_moments_follow_float32_where_nearest_would_stand_still(state_dtype):
    """Gradients of 0: v loses a thousandth in a step, less than half of any step of the formats.

    Of n elements, each of which is rounded T times with at most a step s of itself, the mean is off
    by less than s * sqrt(T) / sqrt(n) in one standard deviation; four are allowed. 0.999^T is what
    is left.
    """
    steps, count, fraction = 300, 20_000, {"bfloat16": 2.0**-7, "int8": 2.0**-3}[state_dtype]
    shapes = [(count,)]
    wide, kept = make(shapes=shapes), make(shapes=shapes, state_dtype=state_dtype)
    some = gradients(0, shapes=shapes, exponents=(0, 1))
    none = (Tensor(np.zeros(count), ms.float32),)
    for optimizer in (wide, kept):
        optimizer(some)
    start = moment(kept, "moment2.p0").copy()
    for _ in range(steps):
        for optimizer in (wide, kept):
            optimizer(none)
    left = moment(kept, "moment2.p0").astype(float).sum() / start.astype(float).sum()
    # Elements have weights in this mean: normal squares have a fourth moment of 3.
    sure = 4 * fraction * np.sqrt(steps * 3 / count) * 0.5
    assert abs(left / 0.999**steps - 1) < sure < 0.2
    if state_dtype == "bfloat16":  # what rounding to nearest would make of the first step
        nearest = value(stored(np.float32(0.999) * start, "bfloat16"), "bfloat16")
        assert np.array_equal(nearest, start)


@pytest.mark.parametrize("state_dtype", NARROW)
def test_rounding_keeps_the_mean(state_dtype):
    """One gradient for all elements: the mean of the stored moments is the moment of float32.

    A number between two neighbours a step s apart has a standard deviation of at most s / 2.
    """
    count, shapes = 100_000, [(100_000,)]
    for gradient in (1.0, 0.3, 1.7e-3, 1e-12):
        wide, kept = make(shapes=shapes), make(shapes=shapes, state_dtype=state_dtype)
        fed = (Tensor(np.full(count, gradient), ms.float32),)
        wide(fed)
        kept(fed)
        for name in ("moment1.p0", "moment2.p0"):
            exact, got = moment(wide, name)[0], moment(kept, name).astype(float)
            step = exact * {"bfloat16": 2.0**-7, "int8": 2.0**-3}[state_dtype]
            assert abs(got.mean() - exact) <= 5 * step / 2 / np.sqrt(count) + 2.0**-16 * step
            assert len(np.unique(got)) <= 2
            up = got == got.max()
            if 0.1 < up.mean() < 0.9:  # neighbours in a row, or blocks, are not rounded alike
                for lag in (1, 2, 255, 256, 257):
                    together = np.corrcoef(up[:-lag], up[lag:])[0, 1]
                    assert abs(together) < 5 / np.sqrt(count / 256), (name, lag)


@pytest.mark.parametrize("state_dtype", NARROW)
def test_bits_depend_on_nothing_but_the_step(state_dtype, monkeypatch):
    """Not on threads, modes, graphs or, of bfloat16, the layout; and on the seed they do."""

    def after(compiled=False, mode=ms.PYNATIVE_MODE, threads="1", seed=3, **options):
        ms.set_context(mode=mode)
        ms.set_seed(seed)
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        optimizer = make(shapes=[(300, 700), (5,), ()], state_dtype=state_dtype, **options)
        step = step_of(optimizer, compiled)
        for t in range(3):
            step(gradients(t, shapes=[(300, 700), (5,), ()]))
        entries = {name: slot.rows for name, slot in slots(optimizer).items()}
        return {**entries, **{p.name: p.asnumpy().copy() for p in optimizer.parameters}}

    first = after()
    np.testing.assert_equal(after(threads="3"), first)
    np.testing.assert_equal(after(mode=ms.GRAPH_MODE), first)
    np.testing.assert_equal(after(compiled=True), first)
    np.testing.assert_equal(after(compiled=True, mode=ms.GRAPH_MODE, threads="2"), first)
    if state_dtype == "bfloat16":
        np.testing.assert_equal(after(flat_state=True), first)
    other = after(seed=4)
    assert not np.array_equal(other["moment1.p0"], first["moment1.p0"])
    ms.set_seed(0)


COMPOSITE = (
    ("float32", {"state_dtype": "bfloat16"}),
    ("float16", {"state_dtype": "bfloat16", "master_weights": True}),
    ("bfloat16", {"state_dtype": "bfloat16", "use_amsgrad": True, "use_nesterov": True}),
    ("bfloat16", {"master_weights": "split", "max_grad_norm": 1.0, "ema_decay": 0.9}),
    ("bfloat16", {"state_dtype": "bfloat16", "master_weights": "split", "skip_nonfinite": True}),
    ("bfloat16", {"state_dtype": "bfloat16", "master_weights": "split", "accumulate_steps": 2}),
)


@needs_bfloat16
@pytest.mark.parametrize("dtype, options", COMPOSITE)
def test_operators_have_the_bits_of_the_kernel(dtype, options):
    """In graph mode; test_matrix compares modes."""
    ms.set_context(mode=ms.GRAPH_MODE)
    fused, composite = (
        make(dtype, backend=name, weight_decay=0.1, **options) for name in ("fused", "composite")
    )
    for step in range(4):
        fed = gradients(step, dtype)
        fused(fed)
        composite(fed)
    assert bits(composite) == bits(fused)


# --- bad and rare numbers ------------------------------------------------------------------------


def test_blocks_of_zero_subnormal_infinite_and_no_numbers():
    """Weights are not finite where a gradient is not, and only there; v stays positive."""
    rng, count = np.random.default_rng(0), 256 * 5 + 3
    fed = rng.standard_normal(count)
    fed[:256] = 0.0
    fed[256:512] = 1e-42
    fed[600], fed[900], fed[901] = np.inf, np.nan, 3e38
    fed[512] = 1e-30
    optimizer = make(shapes=[(count,)], state_dtype="int8")
    start = optimizer.parameters[0].asnumpy().copy()
    for _ in range(5):
        optimizer((Tensor(fed, ms.float32),))
    weights = optimizer.parameters[0].asnumpy()
    bad = np.zeros(count, bool)
    bad[[600, 900]] = True
    assert np.array_equal(np.isfinite(weights), ~bad)
    np.testing.assert_array_equal(weights[:512], start[:512])  # float32 flushes these squares too
    v, m = moment(optimizer, "moment2.p0"), moment(optimizer, "moment1.p0")
    assert np.all(np.isfinite(v)) and np.all(np.isfinite(m)) and np.all(v >= 0)
    assert np.all(v[513:] > 0)


@needs_bfloat16
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001])
def test_a_nan_stays_one_in_bfloat16_whatever_its_bits(bits):
    """Random bits that are added to a NaN of all ones would make a zero of it."""
    fed = np.ones(512, np.float32)
    fed[::2] = np.array([bits], np.uint32).view(np.float32)
    optimizer = make(shapes=[(512,)], state_dtype="bfloat16", backend="fused")
    for _ in range(3):
        optimizer((Tensor(fed),))
        for name in ("moment1.p0", "moment2.p0"):
            assert np.array_equal(np.isnan(moment(optimizer, name)), np.arange(512) % 2 == 0)


def test_a_small_gradient_beside_a_large_one_moves_its_weight():
    """In one block with gradients of 1, elements with 1e-4 go as far as in float32."""
    fed = np.full(256, 1e-4)
    fed[0] = 1.0
    ways = []
    for state_dtype in ("float32", "int8"):
        optimizer = make(shapes=[(256,)], state_dtype=state_dtype)
        start = optimizer.parameters[0].asnumpy().copy()
        for _ in range(100):
            optimizer((Tensor(fed, ms.float32),))
        ways.append(start - optimizer.parameters[0].asnumpy())
    # A step of v's format is an eighth, of its root a sixteenth; m's noise averages out.
    np.testing.assert_allclose(ways[1], ways[0], rtol=0.2)
    assert abs(ways[1].mean() / ways[0].mean() - 1) < 0.02


@pytest.mark.parametrize("state_dtype", NARROW)
def test_row_sparse_gradients_are_dense_ones(state_dtype):
    table, indices = [(40, 9)], np.array([3, 17, 3, 39])
    values = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    whole = np.zeros(table[0], np.float32)
    np.add.at(whole, indices, values)
    sparse, dense = (make(shapes=table, state_dtype=state_dtype) for _ in range(2))
    for _ in range(3):
        sparse(((Tensor(indices, ms.int32), Tensor(values)),))
        dense((Tensor(whole),))
    assert bits(sparse) == bits(dense)
    words = "names row 40, but the parameter has 40 rows" if HAS_BFLOAT16 else "MsAdamStep"
    with unchanged(sparse), pytest.raises(RuntimeError, match=words):
        # 2.0 launches compiled; stderr has the row
        sparse(((Tensor([40], ms.int32), Tensor(values[:1])),))


def test_the_bound_of_a_finer_format_finds_a_coarser_one():
    """What the matrix would say if int8 were called bfloat16, and bfloat16 float32."""
    case = {case.name: case for case in SCHEMES}
    for kept, called in (("int8", "bfloat16"), ("bfloat16", "float32"))[: len(NARROW)]:
        of_kept = case[f"{kept} state"]
        if kept not in NARROW:
            continue
        optimizer = make_optimizer(of_kept, make_parameters([(700,)], "float32"))
        wrong = of_kept._replace(options={"state_dtype": called})
        assert excess(wrong, optimizer) > 2.0
        optimizer = make_optimizer(of_kept, make_parameters([(700,)], "float32"))
        assert excess(of_kept, optimizer) <= 1.0


# --- checkpoints, and what trainers do -----------------------------------------------------------

KINDS = [
    {"state_dtype": state, "master_weights": masters}
    for state in ("float32", "bfloat16", "int8")
    for masters in (True, "split")
]


@needs_bfloat16
@pytest.mark.parametrize("there", KINDS, ids=str)
def test_state_is_exchanged_between_all_kinds(there):
    """Exact into what is as wide, else rounded to nearest: half a step."""
    old = make("bfloat16", **there)
    for step in range(3):
        old(gradients(step, "bfloat16", exponents=(-3, 1)))
    given = {name: value.asnumpy() for name, value in ms_adam.gather_state(old).items()}
    assert {"moment1.p0", "moment2.p0", "master_weight.p0"} <= set(given)
    order = ("int8", "bfloat16", "float32")
    for here in KINDS:
        new = make("bfloat16", **here)
        for mine, theirs in zip(new.parameters, old.parameters):
            mine.set_data(theirs.astype(ms.float32).astype(ms.bfloat16))
        ms_adam.load_state(new, old.parameters_dict())
        got = {name: slot.rows for name, slot in slots(new).items()}
        exact = order.index(here["state_dtype"]) >= order.index(there["state_dtype"])
        half = {"float32": 0.0, "bfloat16": 2.0**-8, "int8": 2.0**-4}[here["state_dtype"]]
        for name in ("moment1.p0", "moment2.p0"):
            largest = np.abs(given[name]).max()
            limit = 0.0 if exact else half * np.abs(given[name]) + 2.0**-15 * largest
            assert np.all(np.abs(got[name] - given[name]) <= limit), (here, name)
        np.testing.assert_array_equal(got["master_weight.p0"], given["master_weight.p0"])


@needs_bfloat16
def test_a_master_between_two_parameters_takes_its_own():
    """True rounds a tie to even; halves need the other parameter, which is as near."""
    tie = np.float32([1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, -1.0 - 2.0**-8])
    whole, halves = (make("bfloat16", [(3,)], master_weights=kind) for kind in (True, "split"))
    whole.master_weights[0].set_data(Tensor(tie))
    for optimizer in (whole, halves):
        optimizer.parameters[0].set_data(Tensor(tie, ms.bfloat16))
    ms_adam.load_state(halves, whole.parameters_dict(), step=0)
    np.testing.assert_array_equal(moment(halves, "master_weight.p0"), tie)


@needs_bfloat16
def test_weights_that_are_loaded_later_keep_their_trailing_bits():
    """docs/narrow.md says it: the master is then within half a unit of what was loaded."""
    optimizer = make("bfloat16", [(1000,)], master_weights="split")
    for step in range(3):
        optimizer(gradients(step, "bfloat16", [(1000,)], (-1, 1)))
    loaded = np.random.default_rng(9).standard_normal(1000)
    optimizer.parameters[0].set_data(Tensor(loaded, ms.bfloat16))
    given = optimizer.parameters[0].astype(ms.float32).asnumpy()
    master = moment(optimizer, "master_weight.p0")
    assert np.all(np.abs(master - given) <= 2.0**-8 * np.abs(given))
    assert np.any(master != given)


def test_damaged_codes_are_refused():
    optimizer = make(state_dtype="int8")
    state = dict(optimizer.parameters_dict())
    state["moment1.p0"] = Parameter(Tensor(np.zeros(7), ms.uint8), name="moment1.p0")
    says = r"'moment1.p0' has shape \(7,\), and codes .* \(2109,\)"
    with unchanged(optimizer), pytest.raises(ValueError, match=says):
        ms_adam.load_state(optimizer, state, step=0)


@pytest.mark.parametrize(
    "dtype, options, words",
    [
        ("float64", {"state_dtype": "int8"}, "for weights that are updated in float32, and 'p0'"),
        ("float16", {"master_weights": "split"}, "'p0' is Float16, whose exponent has fewer bits"),
    ],
)
def test_refusals_name_the_reason(dtype, options, words):
    """Further ones are in test_optimizer."""
    with pytest.raises(ValueError, match=words):
        make(dtype, **options)


def test_centralized_gradients_are_refused():
    groups = [{"params": list(make().parameters), "grad_centralization": True}]
    with pytest.raises(ValueError, match="state_dtype='int8' has no grad_centralization"):
        ms_adam.Adam(groups, state_dtype="int8")
