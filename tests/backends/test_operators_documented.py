"""`primitive` and `composite` use operators that MindSpore documents for Ascend, GPU and CPU."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mindspore as ms
import pytest
from mindspore.ops import operations as P
from mindspore.ops.auto_generate import InplaceCopy

from ms_adam.backends import BACKENDS, packing_for
from ms_adam.backends.operators import store_operator
from ms_adam.backends.packing import OperatorPacking
from ms_adam.gradients import FLOATS
from tests.documented_operators import (
    EVERYWHERE,
    GRAPHS,
    ON_THE_CPU_ALONE,
    OPERATORS,
    documented_platforms,
    launched_in,
    named_in,
    refusals,
    saving_graphs,
)

TESTS = Path(__file__).parent.parent
PACKAGE = TESTS.parent / "ms_adam"
# All that a step of an optimizer can run.
SOURCES = sorted([*PACKAGE.glob("*.py"), *(PACKAGE / "backends").glob("*.py")])

# Makes steps that take every branch of the two backends; MindSpore writes down what it compiled.
STEPS = """
import numpy as np
import ms_adam
import mindspore as ms
from mindspore import Parameter, Tensor
from sources import remember_sources

remember_sources()
FLOATS = (ms.bfloat16, ms.float32, ms.float64)
INDICES = Tensor([2, 0, 2], ms.int32)

def step(optimizer, dtypes, sparse, **options):
    tables = [Parameter(Tensor(np.ones((4, 3)), dtype), name=f"table{i}")
              for i, dtype in enumerate(dtypes)]
    groups = [{"params": tables, "grad_centralization": True}]
    adam = optimizer(groups, **options)
    adam(tuple((INDICES, Tensor(np.ones((3, 3)), dtype)) if sparse
               else Tensor(np.ones((4, 3)), dtype) for dtype in dtypes))
    if options.get("accumulate_steps"):
        adam.flush()

for sparse in (False, True):
    step(ms_adam.Adam, FLOATS, sparse, backend="composite", use_amsgrad=True, use_nesterov=True,
         max_grad_norm=1.0, weight_decay=0.1, loss_scale=2.0, maximize=True)
    step(ms_adam.AdamW, FLOATS, sparse, backend="composite", use_lazy=True, max_grad_norm=1.0,
         master_weights=True, bias_correction=False)
    step(ms_adam.Adam, FLOATS, sparse, backend="composite", use_lazy=True, epsilon_hat=True)
    step(ms_adam.AdaMax, FLOATS, sparse, backend="composite")
    step(ms_adam.Adam, FLOATS, sparse, backend="composite", ema_decay=0.9, ema_debias=False,
         loss_scale=ms.amp.DynamicLossScaler(2.0, 2, 2), accumulate_steps=2)
    for dtypes in (FLOATS * 4, FLOATS[1:2] * 3):  # stacked, and too few for it
        step(ms_adam.Adam, dtypes, sparse, backend="composite", flat_state=True, max_grad_norm=1.0)
    step(ms_adam.Adam, FLOATS[:2], sparse, backend="composite", state_dtype="bfloat16",
         master_weights="split", use_amsgrad=True)
    step(ms_adam.AdamW, FLOATS[:2], sparse, backend="primitive", use_nesterov=True,
         master_weights=True, bias_correction=False)
    step(ms_adam.Adam, FLOATS[1:2], sparse, backend="primitive", use_amsgrad=True, weight_decay=0.1)
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """{operator: how many of them} in the graphs of all STEPS."""
    folder = tmp_path_factory.mktemp("graphs")
    subprocess.run(
        [sys.executable, "-c", STEPS],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{PACKAGE.parent}:{TESTS}", **saving_graphs(folder)},
    )
    graphs = list(folder.rglob(GRAPHS))
    assert len(graphs) >= 10
    return sum((launched_in(graph.read_text()) for graph in graphs), Counter())


def named():
    return set().union(*(named_in(path.read_text()) for path in SOURCES))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_module_names_documented_operators_alone(path):
    assert refusals(named_in(path.read_text())) == []


def test_a_compiled_step_holds_documented_operators_alone(launched):
    assert refusals(launched) == []


def test_steps_take_every_branch(launched):
    """Each operator of the backends is in some compiled step: none escapes the test above."""
    backends = [
        PACKAGE / "backends" / f"{name}.py"
        for name in ("operators", "narrow", "rows", "composite", "primitive")
    ]
    classes = {
        name
        for path in (*backends, PACKAGE / "sparse.py")
        for name in named_in(path.read_text())
        if name in OPERATORS and name[0].isupper()
    }
    # MindSpore computes these when it compiles, of sizes that it knows then.
    assert classes - set(launched) == {"OnesLike", "ZerosLike"}


def test_the_table_has_nothing_unused(launched):
    assert set(OPERATORS) - named() - set(launched) == set()


@pytest.mark.parametrize("name", OPERATORS)
def test_the_table_says_what_mindspore_documents(name):
    page, platforms = OPERATORS[name]
    assert set(documented_platforms(page)) == set(platforms)


def test_a_step_on_other_devices_has_no_operator_of_the_cpu():
    """Where they are: our kernels, which other devices are refused, and the choice of a store."""
    holders = {
        name: {path.name for path in SOURCES if name in named_in(path.read_text())}
        for name in ON_THE_CPU_ALONE
    }
    assert holders == {"Custom": {"fused.py", "packing.py"}, "InplaceCopy": {"compat.py"}}
    for device_target in ("GPU", "Ascend"):
        assert BACKENDS["fused"].obstacle(None, None, (), device_target)
        weights = [ms.Parameter(ms.Tensor([1.0], dtype), name=str(dtype)) for dtype in FLOATS]
        for name in ("primitive", "composite"):
            packings = packing_for("Adam", name, weights, weights, device_target)
            assert {type(packing) for packing, _ in packings} == {OperatorPacking}
    assert isinstance(store_operator(ms.bfloat16, "CPU"), InplaceCopy)
    for device_target in ("GPU", "Ascend"):
        assert isinstance(store_operator(ms.bfloat16, device_target), P.Assign)
    for dtype in (ms.float16, ms.float32, ms.float64):
        assert isinstance(store_operator(dtype, "CPU"), P.Assign)


@pytest.mark.parametrize(
    "line, reason",
    [
        (
            "from mindspore.ops.auto_generate import InplaceAddExt\nx = InplaceAddExt()",
            "InplaceAddExt",
        ),
        ("from mindspore.ops import operations as P\nx = P.ApplyAdamW(1)", "ApplyAdamW"),
        ("from mindspore.ops import operations\nx = map(operations.ApplyAdamW, y)", "ApplyAdamW"),
        ("import mindspore as ms\nx = ms.ops.silu(y)", "silu"),
        ("from mindspore import ops as o\nx = o.auto_generate.Muls()", "Muls"),
        ("from mindspore import mint\nx = mint.add(y, z)", "mindspore.mint.add"),
        ("from mindspore.ops import *", "mindspore.ops.*"),
    ],
)
def test_an_operator_that_is_not_in_the_table_is_refused(line, reason):
    for source in (SOURCES[0].read_text() + "\n" + line, line):
        told = refusals(named_in(source))
        assert len(told) == 1 and told[0].startswith(f"{reason} is not in the table")


def test_an_operator_for_ascend_alone_is_refused(monkeypatch):
    """Also where somebody adds it to the table: with its true platforms, or with others."""
    source = (PACKAGE / "backends" / "composite.py").read_text()
    source = source.replace("P.Mul()", "P.ApplyAdamW()")
    page = "mindspore.Tensor.copy_"
    monkeypatch.setitem(OPERATORS, "ApplyAdamW", OPERATORS["InplaceCopy"])
    assert refusals(named_in(source)) == [f"ApplyAdamW is documented for Ascend alone ({page})"]
    assert set(documented_platforms(page)) != set(EVERYWHERE)


def test_an_operator_for_ascend_alone_in_a_graph_is_refused():
    line = "  %31(v) = {}(%7, %30) {{instance name: lerp}}\n     : (<Tensor[Float32], (4, 3)>)\n"
    assert refusals(launched_in(line.format("PrimFunc_Lerp"))) == []
    assert refusals(launched_in(line.format("PrimFunc_AddExt")))[0].startswith("AddExt is not in")


def test_a_page_without_platforms_is_no_page():
    for page in ("mindspore.ops.Primitive", "mindspore.ops.there_is_none"):
        with pytest.raises(LookupError, match="names no platforms"):
            documented_platforms(page)
