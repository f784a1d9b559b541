"""Clean pairs, which no roundings may part, and planted faults, found at their step and tensor.

All pairs are sides of one comparison, trained in this process. `python -m` of this file prints the
table.
"""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import pytest
from lab.studies.compare.trainings import LAST, LAST_BIAS, TABLE, WEIGHT

from ms_adam.lab.studies.compare import judge, run, sides
from ms_adam.lab.studies.compare.config import Comparison

HERE = "lab.studies.compare"
MAKE = f"{HERE}.trainings:make"
STEPS = 2
ADAM, ADAMW, ADAMAX = "ms_adam.Adam", "ms_adam.AdamW", "ms_adam.AdaMax"
EXPERIMENTAL = "mindspore.experimental.optim.AdamW"
FAULTY, GROUPS, RESUMED, SCHEDULE = (
    f"{HERE}.trainings:{name}" for name in ("faulty", "groups", "resumed", "schedule")
)


def side(optimizer=ADAM, mode="pynative", backend=None, dtype=None, changes=None, **options):
    if optimizer not in (GROUPS, SCHEDULE):
        is_like_torch = ".mint." in optimizer or optimizer == EXPERIMENTAL
        options.setdefault("lr" if is_like_torch else "learning_rate", 0.01)
    return {
        "optimizer": optimizer,
        "mode": mode,
        "backend": backend,
        "dtype": dtype,
        "changes": changes or {},
        "options": options,
    }


def both(optimizer=ADAM, other="composite", **options):
    """The same on two backends."""
    return side(optimizer, **options), side(optimizer, backend=other, **options)


def theirs(**options):
    """ms_adam.Adam and nn.Adam."""
    return side(epsilon_hat=True, **options), side("mindspore.nn.Adam", **options)


PLAIN, BY_NORM, DECAYED = side(), side(max_grad_norm=0.1), side(GROUPS)
HAT, NESTEROV = side(epsilon_hat=True), side(epsilon_hat=True, use_nesterov=True)
AMSGRAD, WITHOUT = (side(epsilon_hat=True, use_amsgrad=use, beta2=0.5) for use in (True, False))
FALLING, LATE = (side(SCHEDULE, epsilon_hat=True, late=late) for late in (0, 1))
ADAMW_DECAYED = side(ADAMW, weight_decay=0.1)
ADAGRAD = side("mindspore.nn.Adagrad")
SCALED = {"scale": 1024.0}

CLEAN = {
    "graph | PyNative": (side(mode="graph"), PLAIN),
    "PyNative | graph, composite": (PLAIN, side(mode="graph", backend="composite")),
    "flat | not": (side(flat_state=True), PLAIN),
    "fused | composite": both(),
    "fused | primitive": both(other="primitive"),
    "1 rank | 2 ranks": (PLAIN, side(changes={"ranks": 2})),
    "4 ranks | 1 rank": (side(changes={"ranks": 4}), PLAIN),
    "one learning rate | schedule of it": (PLAIN, side(learning_rate=[0.01] * 9)),
    "epsilon-hat | nn.Adam": theirs(),
    "nn.Adam | epsilon-hat": theirs()[::-1],
    "amsgrad": theirs(use_amsgrad=True, beta2=0.5),
    "nesterov": theirs(use_nesterov=True),
    "L2 decay": theirs(weight_decay=0.1),
    "schedule": (FALLING, side(SCHEDULE, theirs=True)),
    "decoupled decay, mint": (side("ms_adam.mint.AdamW", weight_decay=0.1), ADAMW_DECAYED),
    "experimental.optim.AdamW": (
        side(EXPERIMENTAL, weight_decay=0.1, betas=[0.9, 0.5], amsgrad=True, maximize=True),
        side(ADAMW, weight_decay=0.1, beta2=0.5, use_amsgrad=True, maximize=True),
    ),
    "resumed": (side(RESUMED, epsilon_hat=True), side(RESUMED, theirs=True)),
    "groups": (DECAYED, side(GROUPS, flat_state=True)),
    "clipping": (BY_NORM, side(max_grad_norm=0.1, backend="composite")),
    "accumulation": both(accumulate_steps=2, other="fused"),
    "averages": (PLAIN, side(ema_decay=0.9)),
    "loss scale | none": (PLAIN, side(changes=SCALED, loss_scale=1024.0)),
    "clipping, loss scale": (BY_NORM, side(changes=SCALED, loss_scale=1024.0, max_grad_norm=0.1)),
    "AdaMax": both(ADAMAX),
    "no bias correction": both(other="primitive", bias_correction=False),
    "large epsilon": both(other="primitive", eps=1e-2),
    "float16": (side(dtype="float16"), side(dtype="float16", flat_state=True)),
    "bfloat16": (side(dtype="bfloat16"), side(dtype="bfloat16", flat_state=True)),
    "bfloat16 with masters": both(dtype="bfloat16", master_weights=True),
    "float32 | bfloat16 with masters": (PLAIN, side(dtype="bfloat16", master_weights=True)),
    "float64": both(dtype="float64"),
    "float64 NumPy | float32": (side("reference"), PLAIN),
    "float32 | float64 NumPy": (PLAIN, side("reference")),
    "no known formula": (ADAGRAD, side("mindspore.nn.Adagrad", mode="graph")),
}


class Fault(NamedTuple):
    """A pair of a side and a faulty one, and where its fault is: cause, step and tensor."""

    one: dict
    other: dict
    cause: str
    step: int = 1
    tensor: Optional[str] = None  # None: all have it


def faulty(fault, at, **options):
    return side(FAULTY, fault=fault, at=at, **options)


FAULTS = {
    "beta2 off by 1e-4": Fault(PLAIN, side(beta2=0.9989), judge.UPDATE),
    "beta1 in bfloat16": Fault(PLAIN, side(beta1=0.8984375), judge.UPDATE),
    "epsilon moved": Fault(PLAIN, side(eps=1e-7), judge.UPDATE),
    "epsilon-hat": Fault(PLAIN, HAT, judge.UPDATE),
    "nesterov forgotten": Fault(NESTEROV, HAT, judge.UPDATE),
    "L2 in place of decoupled": Fault(ADAMW_DECAYED, side(weight_decay=0.1), judge.UPDATE),
    "decay of a bias": Fault(
        DECAYED, side(GROUPS, decayed=[TABLE, WEIGHT, LAST, LAST_BIAS]), judge.UPDATE, 1, LAST_BIAS
    ),
    "one step's decay missed": Fault(
        ADAMW_DECAYED, side(FAULTY, fault="decay missed", at=2, weight_decay=0.1), judge.UPDATE, 2
    ),
    "a float16 moment": Fault(PLAIN, faulty("float16 moment", 0), judge.UPDATE),
    "a stale weight": Fault(PLAIN, side(changes={"stale": 2}), judge.NETWORK, 2),
    "one batch exchanged": Fault(PLAIN, side(changes={"exchanged": 2}), judge.NETWORK, 2),
    "a gradient not averaged": Fault(
        PLAIN, side(changes={"ranks": 2, "reduced": False}), judge.NETWORK
    ),
    "a sum in place of a mean": Fault(PLAIN, side(changes={"reduction": "sum"}), judge.NETWORK),
    "loss scale forgotten": Fault(
        side(changes=SCALED, loss_scale=1024.0), side(changes=SCALED), judge.NETWORK
    ),
    "a schedule one step late": Fault(FALLING, LATE, judge.UPDATE, 2),
    "bias correction one step off": Fault(PLAIN, faulty("count ahead", 2), judge.UPDATE, 2),
    "moments reset at a resume": Fault(PLAIN, faulty("moments reset", 2), judge.UPDATE, 2),
    "a row of a table missed": Fault(PLAIN, faulty("row missed", 2), judge.UPDATE, 2, TABLE),
    "clipping by value": Fault(BY_NORM, faulty("clipped by value", 0), judge.UPDATE),
    "a parameter left out": Fault(
        DECAYED, side(GROUPS, frozen=[LAST_BIAS]), judge.UPDATE, 1, LAST_BIAS
    ),
    "an update lost": Fault(PLAIN, faulty("update lost", 2), judge.UPDATE, 2, LAST),
    "rows of a gradient exchanged": Fault(
        PLAIN, faulty("gradients exchanged", 2), judge.UPDATE, 2, WEIGHT
    ),
    "accumulation forgotten": Fault(side(accumulate_steps=2), PLAIN, judge.UPDATE),
    "another start of no known formula": Fault(
        ADAGRAD, side("mindspore.nn.Adagrad", accum=0.2), judge.UPDATE
    ),
    "no amsgrad": Fault(AMSGRAD, WITHOUT, judge.UPDATE, 2),
}


PAIRS = {**CLEAN, **{name: fault[:2] for name, fault in FAULTS.items()}}


class Quiet:
    def progress(self, done):
        pass


def here(call, name, job, log):
    """Does a worker's job in this process."""
    sides.work(json.loads(json.dumps(job)), Quiet())
    yield {"done": 0}


def compared(folder, everything, factory):
    """{name of a pair: its entry in compare.json}, for {name: two sides}."""
    named, of = {}, {}
    for name, pair in everything.items():
        for one in pair:
            named.setdefault(json.dumps(one, sort_keys=True), (f"side {len(named) + 1}", one))
        of[name] = [named[json.dumps(one, sort_keys=True)][0] for one in pair]
    comparison = Comparison.model_validate(
        {
            "title": "pairs",
            "factory": factory,
            "training": {"steps": STEPS, "batch_size": 8, "seed": 1},
            "sides": dict(named.values()),
            "pairs": [{"sides": of[name]} for name in everything],
        }
    )
    content = run.compare(comparison, Path(folder), lambda *_: None, here)
    return dict(zip(everything, content["results"][0]["pairs"]))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return compared(tmp_path_factory.mktemp("pairs"), PAIRS, MAKE)


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_pair_does_not_part(pairs, name):
    assert (pairs[name]["formula_of"] is None) == (name == "no known formula")
    assert pairs[name]["status"] in (judge.EQUAL, judge.HELD), pairs[name]["sentence"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_at_its_step_and_tensor(pairs, name):
    fault, found = FAULTS[name], pairs[name]
    assert found["status"] == judge.PARTED, found["sentence"]
    assert (found["cause"], found["first"]["step"]) == (fault.cause, fault.step), found["sentence"]
    assert fault.tensor in (None, found["first"]["parameter"]), found["sentence"]


# ---- gradients that are rounding noise, and networks that draw random numbers


def noisy(mode="pynative", **changes):
    # eps is below the noise, which is 1e-9 here: Adam makes whole steps of it.
    return side(mode=mode, changes=changes, eps=1e-13)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    attention = {
        "graph": (noisy(), noisy("graph")),
        "eps": (noisy(), side(eps=1e-10)),
        "pulled": (noisy(), noisy(pull=1e-4)),
        "scaled": (noisy(), noisy(scale=1.01)),
    }
    normalized = {
        "normalized": (noisy(keep=1.0), noisy("graph", keep=1.0)),
        "dropout": (noisy(keep=0.5), side("reference", changes={"keep": 0.5}, eps=1e-13)),
    }
    found = {}
    for factory, pairs in (("attention", attention), ("normalized", normalized)):
        folder = tmp_path_factory.mktemp(factory)
        found.update(compared(folder, pairs, f"{HERE}.attention:{factory}"))
    return found


@pytest.mark.parametrize("name", ["graph", "normalized", "dropout"])
def test_noise_parts_nothing(noise, name):
    """The key bias of an attention, and a bias before batch normalization; the same masks."""
    assert noise[name]["status"] in (judge.EQUAL, judge.HELD), noise[name]["sentence"]


@pytest.mark.parametrize(
    "name, cause, tensor",
    [
        ("eps", judge.UPDATE, "qkv.bias"),  # even where only noise shows it
        ("pulled", judge.NETWORK, "qkv.bias"),  # a genuine gradient in the elements of the noise
        ("scaled", judge.NETWORK, None),
    ],
)
def test_noise_hides_nothing(noise, name, cause, tensor):
    found = noise[name]
    assert (found["status"], found["cause"]) == (judge.PARTED, cause), found["sentence"]
    assert found["first"]["step"] == 1 and tensor in (None, found["first"]["parameter"])


def main():
    with tempfile.TemporaryDirectory() as folder:
        for name, found in compared(folder, PAIRS, MAKE).items():
            shares = {
                quantity: max(
                    (
                        np.max(np.nan_to_num(np.divide(at["difference"], at["bound"])))
                        for of in found["checks"].values()
                        if (at := of.get(quantity)) is not None
                    ),
                    default=np.nan,  # of no known formula
                )
                for quantity in ("gradient", "moment1", "moment2", "parameter")
            }
            words = " ".join(f"{share:9.2g}" for share in shares.values())
            print(f"{name:34} {found['status']:7} {words}  {found['sentence'][:150]}")


if __name__ == "__main__":
    main()
