"""`flat_state=True` with the backend of operators: bits, launches, checkpoints, replaced data."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, amp
from running import DTYPES, set_mode, step_of

import ms_adam
from tests.documented_operators import GRAPHS, launched_in, saving_graphs

ROOT = Path(__file__).parent.parent.parent
# One shape occurs often enough to be stacked; odd sizes, 0-d, empty.
SHAPES = ((3, 5), (7,), (3, 5), (), (3, 5), (2, 3, 2), (3, 5), (0, 4))


def make(dtypes, flat, cls="Adam", groups=False, **options):
    rng = np.random.default_rng(0)
    params = [
        Parameter(
            Tensor(rng.standard_normal(shape), ms.float32).astype(getattr(ms, dtype)),
            name=f"{'beta' if i % 4 == 1 else 'weight'}{i}.{dtype}",  # two rows with weight decay
        )
        for dtype in dtypes
        for i, shape in enumerate(SHAPES)
    ]
    if groups:
        params = [
            {"params": params[1:2], "lr": 0.1},
            {
                "params": params[:1] + params[2:],
                "grad_centralization": True,
                "betas": (0.5, 0.9),
                "maximize": True,
            },
        ]
    if options.get("loss_scale") == "dynamic":
        options["loss_scale"] = amp.DynamicLossScaler(2.0**10, 2, 2)
    return getattr(ms_adam, cls)(params, 1e-2, backend="composite", flat_state=flat, **options)


def gradients_of(optimizer, rng, step, dtypes, sparse):
    gradients = [
        Tensor(rng.standard_normal(p.shape), ms.float32).astype(
            getattr(ms, dtypes[i % 2]) if dtypes else p.dtype
        )
        for i, p in enumerate(optimizer.parameters)
    ]
    if step == 2 and optimizer.execution.skips:
        gradients[3] = gradients[3] * float("inf")
    if sparse:
        gradients[0] = (Tensor([2, 0, 2], ms.int32), gradients[0])
    return gradients


def trained(optimizer, dtypes=None, sparse=False, compiled=False, flushes=False):
    """Makes four steps; returns the weights, the whole state by name, and the norm."""
    step, rng = step_of(optimizer, compiled), np.random.default_rng(1)
    for t in range(4):
        step(tuple(gradients_of(optimizer, rng, t, dtypes, sparse)))
    if flushes:
        assert optimizer.flush()
    entries = dict(zip(optimizer.check.names, optimizer.parameters))
    entries.update(ms_adam.gather_state(optimizer))
    if optimizer.grad_norm is not None:
        entries["norm"] = optimizer.grad_norm
    return {name: np.array(it.astype(ms.float64).asnumpy()) for name, it in entries.items()}


OPTIONS = {
    "plain": {},
    "AMSGrad": {"weight_decay": 0.1, "use_amsgrad": True, "use_nesterov": True, "loss_scale": 3.0},
    "AdaMax": {"cls": "AdaMax", "weight_decay": 0.1},
    "groups": {"groups": True, "max_grad_norm": 1.0, "weight_decay": 0.1},
    "tail": {
        "cls": "AdamW",
        "loss_scale": "dynamic",
        "max_grad_norm": 1.0,
        "ema_decay": 0.9,
        "ema_debias": False,
    },
    "masters": {"master_weights": True, "skip_nonfinite": True, "ema_decay": 0.9},
    "accumulation": {
        "accumulate_steps": 2,
        "skip_nonfinite": True,
        "max_grad_norm": 0.5,
        "weight_decay": 0.1,
    },
}


# One case has all dtypes, most have two: a graph of fewer parameters compiles sooner. Two cases are
# compiled in every way.
IN_ALL_WAYS = [("tail", ("float32",)), ("accumulation", ("float32", "float16"))]
MIXTURES = [
    ("plain", DTYPES),
    ("tail", ("bfloat16", "float64")),
    ("AMSGrad", ("bfloat16", "float32")),
    ("AdaMax", ("float32", "float64")),
    ("groups", ("float64", "float16")),
    ("masters", ("bfloat16", "float32")),
    *IN_ALL_WAYS,
]


@pytest.mark.parametrize("name, dtypes", MIXTURES)
def test_flat_state_has_the_bits_of_single_weights(name, dtypes):
    set_mode("graph")
    flushes = name == "accumulation"
    expected = trained(make(dtypes, False, **OPTIONS[name]), flushes=flushes)
    moved = [not np.array_equal(value, 0.0 * value) for value in expected.values()]
    assert sum(moved) > len(SHAPES)
    found = trained(make(dtypes, True, **OPTIONS[name]), flushes=flushes)
    np.testing.assert_equal(found, expected)
    if (name, dtypes) in IN_ALL_WAYS:
        found = trained(make(dtypes, True, **OPTIONS[name]), compiled=True, flushes=flushes)
        np.testing.assert_equal(found, expected)
        set_mode("pynative")
        found = trained(make(dtypes, True, **OPTIONS[name]), flushes=flushes)
        np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("dtypes", [("float16", "float64"), ("bfloat16", "float32")])
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_several_dtypes_and_of_rows(dtypes, sparse, mode):
    options = {"max_grad_norm": 1.0, "skip_nonfinite": True}
    expected, found = (
        trained(make(("float32",), flat, **options), dtypes, sparse) for flat in (False, True)
    )
    np.testing.assert_equal(found, expected)


def test_the_norm_of_large_tensors():
    """The CPU sums a million elements in threads: a stack of four must not be summed at once."""
    norms = []
    for flat in (False, True):
        rng = np.random.default_rng(0)
        size = 1_000_003
        params = [Parameter(Tensor(np.zeros(size), ms.float32), name=f"w{i}") for i in range(4)]
        adam = ms_adam.Adam(params, backend="composite", flat_state=flat, max_grad_norm=1.0)
        adam(tuple(Tensor(rng.standard_normal(size), ms.float32) for _ in params))
        norms.append([p.asnumpy().copy() for p in (adam.grad_norm, *adam.parameters)])
    np.testing.assert_equal(*norms)


SINGLE, FLAT, GROUPS = {"flat": False}, {"flat": True}, {"flat": True, "groups": True}


@pytest.mark.parametrize(
    "old, others", [(SINGLE, [FLAT]), (FLAT, [SINGLE, GROUPS]), (GROUPS, [FLAT])]
)
def test_checkpoints_load_into_each_other(tmp_path, old, others):
    """In the middle of an accumulation; also from and to the kernel's flat state."""
    set_mode("graph")
    options = {"use_amsgrad": True, "ema_decay": 0.9, "master_weights": True, "accumulate_steps": 3}
    one = make(("float16",), **old, **options)
    expected = trained(one)
    path = str(tmp_path / "state.ckpt")
    ms.save_checkpoint(one, path)
    for new in others:
        other, again = (make(("float16",), **new, **options) for _ in range(2))
        ms_adam.load_state(other, path)
        state = ms_adam.gather_state(other)
        for name, value in state.items():
            np.testing.assert_array_equal(value.asnumpy(), expected[name], name)
        fused = ms_adam.Adam(list(other.parameters), backend="fused", flat_state=True, **options)
        ms_adam.load_state(fused, path)
        ms_adam.load_state(again, fused.parameters_dict())
        np.testing.assert_equal(
            {name: value.asnumpy() for name, value in ms_adam.gather_state(again).items()},
            {name: value.asnumpy() for name, value in state.items()},
        )


# ---- Launches -----------------------------------------------------------------------------------

STEPS = """
import sys
import numpy as np, mindspore as ms, ms_adam
from mindspore import Parameter, Tensor, amp
from sources import remember_sources

remember_sources()
for shapes, options in eval(sys.argv[1]):
    if "loss_scale" in options:
        options["loss_scale"] = amp.DynamicLossScaler(2.0, 2, 2)
    params = [Parameter(Tensor(np.ones(shape), ms.float16), name=f"w{i}")
              for i, shape in enumerate(shapes)]
    adam = ms_adam.Adam(params, backend="composite", flat_state=True, **options)
    adam(tuple(Tensor(np.ones(p.shape), ms.float16) for p in params))
"""
TAIL = {"loss_scale": "dynamic", "max_grad_norm": 1.0, "ema_decay": 0.9, "weight_decay": 0.1}


def alike(count):
    return [(5, 3)] * count


def all_different(count):
    return [(i + 1, 3) for i in range(count)]


# Shapes and options; what each parameter launches; how many others there may be.
LAUNCHES = (
    (alike, {}, {"Assign": 1}, 60),
    (all_different, {}, {"Assign": 1, "Slice": 1}, 60),
    (alike, {"accumulate_steps": 2}, {"Assign": 2}, 80),
    (alike, {"master_weights": True}, {"Assign": 2}, 60),
    (alike, TAIL, {"Assign": 1}, 115),
    (all_different, TAIL, {"Assign": 1, "Slice": 2, "ReduceSum": 1}, 115),
)


def test_launches_of_a_step(tmp_path):
    """A few launches for each parameter, and a number that their count does not change."""
    steps = [(shapes(n), options) for shapes, options, _, _ in LAUNCHES for n in (4, 6)]
    subprocess.run(
        [sys.executable, "-c", STEPS, repr(steps)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **saving_graphs(tmp_path)},
    )
    graphs = sorted(tmp_path.rglob(GRAPHS), key=lambda path: path.stat().st_mtime_ns)
    counts = [launched_in(graph.read_text()) for graph in graphs]
    assert len(counts) == len(steps)
    for i, (_, _, of_each, others) in enumerate(LAUNCHES):
        fewer, more = counts[2 * i : 2 * i + 2]
        del fewer["Reshape"], more["Reshape"]  # of which MindSpore launches none
        assert more - fewer == {name: 2 * each for name, each in of_each.items()}
        assert sum(fewer.values()) <= 4 * sum(of_each.values()) + others
