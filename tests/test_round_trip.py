"""A state that is saved and loaded, copied or pickled goes on as if nothing had happened.

The tests of `ms_adam.lab.studies.resume` do the same in other processes.
"""

import copy
import gc
import pickle

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, boost, nn
from running import (
    DTYPES,
    adam,
    as_tensors,
    bits,
    copy_values,
    make_optimizer,
    make_parameters,
    set_mode,
)

import ms_adam
from ms_adam.compat import HAS_AMSGRAD_KERNEL, HAS_BFLOAT16, SELECT_BROADCASTS, has_shape
from ms_adam.lab.studies.matrix.cases import Case, Column, PerStep, Scaler, gradients, is_refused

STOP, END = 6, 12  # calls before and after; of the accumulations below the first is in one's middle
SHAPES = ((3, 5), (7,), (0, 4) if has_shape((0, 4)) else (4,), ())
RATES = PerStep("list", tuple(0.01 * (1 + step % 3) for step in range(END)))
DECAYS = PerStep("cell", tuple(0.1 * (step % 2) for step in range(END)))
AVERAGED = PerStep("cell", (0.9,) * END)
TAIL = {"loss_scale": Scaler(2.0**10, 2, 2), "ema_decay": 0.9, "max_grad_norm": 0.5}

# Every option that changes what a step reads or writes.
CASES = {
    case.name: case
    for case in (
        Case("offload", "Adam", {"use_offload": True}),
        Case("AMSGrad", "Adam", {"use_amsgrad": True, "weight_decay": 0.1, "loss_scale": 3.0}),
        Case("lazy", "AdamW", {"use_lazy": True, "use_nesterov": True, "learning_rate": RATES}),
        Case(
            "schedules",
            "AdamW",
            {
                "learning_rate": RATES._replace(kind="cell"),
                "weight_decay": DECAYS,
                "master_weights": True,
                "epsilon_hat": True,
            },
        ),
        Case(
            "groups",
            "Adam",
            {"learning_rate": 0.05, "bias_correction": False},
            ({"lr": RATES, "grad_centralization": True}, {"weight_decay": DECAYS}),
            True,
        ),
        Case("AdaMax", "AdaMax", {"weight_decay": 0.1}),
        Case("tail", "Adam", {**TAIL, "master_weights": True}),
        Case("accumulation", "Adam", {**TAIL, "accumulate_steps": 4, "use_amsgrad": True}),
        Case("averages", "Adam", {"ema_decay": AVERAGED, "skip_nonfinite": True}),
        Case("bfloat16", "Adam", {"state_dtype": "bfloat16", "master_weights": "split"}),
        Case("int8", "AdamW", {"state_dtype": "int8", "master_weights": True, **TAIL}),
    )
    if HAS_BFLOAT16 or case.name != "bfloat16"
}
LAYOUTS = {
    "fused": {"backend": "fused"},
    "flat": {"backend": "fused", "flat_state": True},
    "composite": {"backend": "composite"},
    "primitive": {"backend": "primitive"},
}
ON_PRIMITIVE = ("offload", "schedules", "groups") + ("AMSGrad",) * HAS_AMSGRAD_KERNEL


def by_mindspore(optimizer, make, folder):
    ms.save_checkpoint(optimizer, str(folder / "state.ckpt"))
    other = make()
    missing, _ = ms.load_param_into_net(other, ms.load_checkpoint(str(folder / "state.ckpt")))
    assert all(0 in other.parameters_dict()[name].shape for name in missing)
    return other


def by_us(optimizer, make, folder):
    ms.save_checkpoint(optimizer, str(folder / "state.ckpt"))
    other = make()
    ms_adam.load_state(other, folder / "state.ckpt")
    copy_values(optimizer.parameters, other.parameters)
    return other


class Owner(nn.Cell):
    """A Cell that gets an optimizer, and then renames all its Parameters, weights too."""

    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer


def by_pickle(optimizer, make, folder):
    if optimizer.execution.flat:
        Owner(optimizer)
    return pickle.loads(pickle.dumps(optimizer))


WAYS = {
    "load_param_into_net": by_mindspore,
    "load_state": by_us,
    "deepcopy": lambda optimizer, make, folder: copy.deepcopy(optimizer),
}
if HAS_BFLOAT16:  # 2.0.0 pickles no Tensors
    WAYS["pickle"] = by_pickle


def runs():
    """Yields all cases in all layouts; of those that are compiled, each case in one way."""
    for i, case in enumerate(CASES.values()):
        for j, (layout, options) in enumerate(LAYOUTS.items()):
            column = Column(layout, options, True)
            dtypes = [dtype for dtype in DTYPES if not is_refused(case, dtype, column)]
            if layout == "primitive":
                dtypes = ["float32"] * (case.name in ON_PRIMITIVE)
            # The operators of 2.0.0 leave no step out.
            leaves_out = case.skips or "accumulate_steps" in case.options
            if not dtypes or layout == "composite" and leaves_out and not SELECT_BROADCASTS:
                continue
            if layout == "composite":
                dtypes = np.roll(dtypes, i)[:2].tolist()
            for k, way in enumerate(WAYS):
                if layout in ("fused", "flat") or k == (i + j) % len(WAYS):
                    mode = ("graph", "pynative")[(i // 4 + j + k) % 2]
                    yield pytest.param(
                        case, layout, dtypes, way, mode, id=f"{case.name}, {layout}, {way}"
                    )


def step(optimizer, case, first, last):
    """Calls of one sequence; each parameter gets its own gradient, whatever the order."""
    parameters = {p.name: p for p in sorted(optimizer.parameters, key=lambda p: p.name)}
    shapes, dtypes = zip(*((p.shape, str(p.dtype).lower()) for p in parameters.values()))
    for number, arrays in enumerate(gradients(shapes, last)[first:], first):
        if case.skips and number in (2, STOP + 1):
            arrays[0][0, 0] = np.inf
        tensors = dict(zip(parameters, as_tensors(arrays, dtypes)[0]))
        optimizer(tuple(tensors[p.name] for p in optimizer.parameters))


def make(case, layout, dtypes):
    shapes = SHAPES
    if layout == "primitive":  # its AMSGrad has no shape ()
        shapes = SHAPES[:3]
    if layout == "composite":  # each parameter compiles long: two, and others for the next case
        shapes = SHAPES[0], SHAPES[1 + list(CASES).index(case.name) % 3]
    parameters = make_parameters(shapes, np.resize(dtypes, len(shapes)))
    return make_optimizer(case, parameters, **LAYOUTS[layout])


@pytest.mark.parametrize("case, layout, dtypes, way, mode", list(runs()))
def test_it_goes_on_with_the_same_bits(case, layout, dtypes, way, mode, tmp_path):
    set_mode(mode)
    optimizer = make(case, layout, dtypes)
    step(optimizer, case, 0, STOP)

    def make_stale():
        """Makes one whose own state is to be forgotten."""
        stale = make(case, layout, dtypes)
        step(stale, case, 0, 2)
        return stale

    other = WAYS[way](optimizer, make_stale, tmp_path)
    step(optimizer, case, STOP, END)
    end = bits(optimizer)
    step(other, case, STOP, END)
    assert bits(other) == bits(optimizer) == end and other.launch == optimizer.launch


ITERATED = {name: WAYS[name] for name in ("deepcopy", "pickle") if name in WAYS}
ITERATED["boost"] = lambda optimizer, *_: boost.OptimizerProcess(optimizer).generate_new_optimizer()


@pytest.mark.parametrize("way", ITERATED)
def test_what_was_given_by_iterators_is_there_for_another_optimizer(way):
    one, two = make_parameters(SHAPES[:2], "float32")
    groups = ({"params": iter([p]), "lr": iter([0.1, 0.2]), "eps": 1e-6} for p in (one, two))
    optimizer = ms_adam.Adam(groups, (rate for rate in (0.1, 0.2)))
    other = ITERATED[way](optimizer, None, None)
    assert [p.shape for p in other.parameters] == [one.shape, two.shape]
    assert other.lr == optimizer.lr and other.groups.formulas == optimizer.groups.formulas


@pytest.mark.parametrize("backend", ["composite", "primitive"])
def test_copies_that_follow_each_other_all_step(backend, mode):
    """PyNative mode knows a graph by the id of its cell; a copy may have that of one that is gone.

    Of 8 copies two or more have: without a time of its own such a copy makes no step.
    """
    optimizer = adam([(7,)], backend=backend)
    gradients = (Tensor(np.ones(7), ms.float32),)
    optimizer(gradients)
    before = bits(optimizer)
    ends = []
    for _ in range(8 if mode == "pynative" else 2):
        other = copy.deepcopy(optimizer)
        other(gradients)
        ends.append(bits(other))
        del other
        gc.collect()
    assert ends == ends[:1] * len(ends) and ends[0] != before == bits(optimizer)


@pytest.mark.parametrize("name", CASES)
def test_a_state_that_is_lost_is_seen(name):
    optimizer = make(CASES[name], "fused", ["float32"])
    step(optimizer, CASES[name], 0, STOP)
    other = make(CASES[name], "fused", ["float32"])
    copy_values(optimizer.parameters, other.parameters)
    for one in (optimizer, other):
        step(one, CASES[name], STOP, END)
    assert bits(other) != bits(optimizer)
