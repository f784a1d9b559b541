"""A process of test_round_trip.py: `python round_trip.py save|load graph|pynative FOLDER`.

save: for each case 10 steps, a checkpoint by MindSpore's own means, and 10 steps more, whose end is
kept. load: a fresh network and optimizer, the checkpoint, 10 steps, and their end. Prints one JSON
object: the cases, and with load those that end elsewhere.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn
from running import DTYPES, as_tensors, make_optimizer, set_mode
from sources import remember_sources

from ms_adam.compat import HAS_AMSGRAD_KERNEL, has_shape
from ms_adam.lab.studies.matrix.cases import Case, PerStep, gradients

SHAPES = tuple(
    filter(has_shape, ((), (3, 5), (0, 4)))
)  # of each dtype; MindSpore's files lack the empty ones
STEPS = 10
FORGOTTEN = "the optimizer's file is forgotten"
RATES = tuple(0.01 * (1 + step % 3) for step in range(2 * STEPS))
DECAYS = tuple(0.1 * (step % 2) for step in range(2 * STEPS))

# Every option that changes what a step reads or writes, in as few compilations as will do.
OPTIONS = {
    "offload": {"learning_rate": 0.01, "use_offload": True},
    "amsgrad": {
        "learning_rate": 0.01,
        "use_amsgrad": True,
        "weight_decay": 0.1,
        "epsilon_hat": True,
        "loss_scale": 3.0,
    },
    "lazy, nesterov, rates in a list": {
        "learning_rate": PerStep("list", RATES),
        "use_nesterov": True,
        "use_lazy": True,
        "use_locking": True,
    },
    "all, schedules": {
        "learning_rate": PerStep("cell", RATES),
        "use_nesterov": True,
        "weight_decay": PerStep("cell", DECAYS),
        "use_amsgrad": True,
        "master_weights": True,
        "max_grad_norm": 0.5,
    },
    "groups": {"learning_rate": 0.05, "bias_correction": False},
}
GROUPS = (
    {"lr": PerStep("list", RATES), "grad_centralization": True},
    {"weight_decay": PerStep("cell", DECAYS)},
)
LAYOUTS = (
    {"backend": "fused"},
    {"flat_state": True},
    {"backend": "composite"},
    {"backend": "primitive"},
)


class Run(NamedTuple):
    name: str
    case: Case
    layout: dict[str, Any]
    dtypes: tuple[str, ...]  # in one optimizer: one compilation


def runs(mode):
    """All layouts and options; of the layouts that are compiled, each option in one mode."""
    for number, layout in enumerate(LAYOUTS):
        for i, (name, options) in enumerate(OPTIONS.items()):
            if layout in LAYOUTS[2:] and ("graph", "pynative")[(number + i) % 2] != mode:
                continue
            # MindSpore's kernels take float32 only, and update whole tables; that for AMSGrad has
            # no nesterov and no shape ().
            plain = layout == {"backend": "primitive"}
            if plain and options.get("use_amsgrad") and not HAS_AMSGRAD_KERNEL:
                continue
            if plain:
                options = {**options, "use_lazy": False}
            if plain and options.get("use_amsgrad"):
                options["use_nesterov"] = False
            groups = (GROUPS, True) if name == "groups" else ()
            kind = "AdamW" if options.get("use_nesterov") or "schedules" in name else "Adam"
            case = Case(name, kind, options, {}, *groups)
            yield Run(f"{name}, {layout}", case, layout, ("float32",) if plain else DTYPES)


class Network(nn.Cell):
    """Nothing but its parameters: of every shape, of every dtype."""

    def __init__(self, run):
        super().__init__()
        random = np.random.default_rng(1)
        no_scalar = len(run.dtypes) == 1 and run.case.options.get("use_amsgrad")
        shapes = [shape for shape in SHAPES if shape or not no_scalar]
        self.kinds = [(dtype, shape) for shape in shapes for dtype in run.dtypes]
        self.weights = ParameterTuple(
            [
                Parameter(
                    Tensor(random.standard_normal(shape), getattr(ms, dtype)),
                    name=f"layer{i}.weight",
                )
                for i, (dtype, shape) in enumerate(self.kinds)
            ]
        )


def step(run, network, optimizer, first, last):
    """Steps of one sequence of gradients; each parameter gets its own, whatever the order."""
    number = {parameter.name: i for i, parameter in enumerate(network.weights)}
    for arrays in gradients([shape for _, shape in network.kinds], last)[first:]:
        order = [number[parameter.name] for parameter in optimizer.parameters]
        optimizer(tuple(as_tensors([arrays[i]], network.kinds[i][0])[0][0] for i in order))


def bits(network, optimizer):
    """Everything that there is, as bytes under its name."""
    found = {**network.parameters_dict(), **optimizer.parameters_dict()}
    return {name: np.ascontiguousarray(p.asnumpy()).tobytes().hex() for name, p in found.items()}


def make(run):
    network = Network(run)
    return network, make_optimizer(run.case, list(network.weights), **run.layout)


def save(mode, folder):
    ends = {}
    for i, run in enumerate(runs(mode)):
        network, optimizer = make(run)
        step(run, network, optimizer, 0, STEPS)
        # As users have it: the network in one file, the optimizer in another.
        ms.save_checkpoint(network, str(folder / f"{i}_network.ckpt"))
        ms.save_checkpoint(optimizer, str(folder / f"{i}_optimizer.ckpt"))
        middle = bits(network, optimizer)
        step(run, network, optimizer, STEPS, 2 * STEPS)
        ends[run.name] = bits(network, optimizer)
        assert all(
            ends[run.name][name] != middle[name]
            for name in middle
            if "moment2.layer" in name and middle[name]
        ), f"{run.name}: nothing changed"
    (folder / "ends.json").write_text(json.dumps(ends))
    return {"runs": list(ends)}


def load(mode, folder):
    ends = json.loads((folder / "ends.json").read_text())
    different = {
        run.name: _differing(folder, i, run, ends[run.name], ("network", "optimizer"))
        for i, run in enumerate(runs(mode))
    }
    # What this test shows where the state is lost.
    different[FORGOTTEN] = _differing(
        folder, 0, next(runs(mode)), next(iter(ends.values())), ("network",)
    )
    different = {run: names for run, names in different.items() if names}
    return {"runs": list(ends), "different": different}


def _differing(folder, i, run, expected, parts):
    """The names of what ends elsewhere when these parts of a run are loaded."""
    network, optimizer = make(run)
    for part in parts:
        target = {"network": network, "optimizer": optimizer}[part]
        entries = ms.load_checkpoint(str(folder / f"{i}_{part}.ckpt"))
        missing, _ = ms.load_param_into_net(target, entries)
        empty = {name for name, p in target.parameters_dict().items() if 0 in p.shape}
        assert set(missing) <= empty, (run.name, missing)
    step(run, network, optimizer, STEPS, 2 * STEPS)
    end = bits(network, optimizer)
    assert set(end) == set(expected)
    return [name for name, value in end.items() if value != expected[name]]


if __name__ == "__main__":
    action, mode, place = sys.argv[1:]
    set_mode(mode)
    remember_sources()
    print(json.dumps({"save": save, "load": load}[action](mode, Path(place))))
