"""A rank of test_sharding.py: compares optimizers with shards to optimizers without, bit for bit.

First all ranks together make the steps of all cases with shards. Then each rank makes the steps of
its part of the cases without shards, and compares. The results go to found_<rank>.json in the
launch's folder, with a digest of all bits, by which the test knows that all ranks have the same.
"""

import hashlib
import itertools
import json
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from sources import remember_sources

import ms_adam
from ms_adam.lab.run.rank import serve
from ms_adam.lab.run.worker import short_message
from ms_adam.lab.studies.compare.parallel import Gathered
from ms_adam.lab.studies.compare.recipe import masters_of
from ms_adam.lab.targets import MindSporeOptimizer, to_numpy
from ms_adam.lab.train import TrainStep

SHAPES = [(5, 3), (7,), (), (40, 4), (3, 2, 2), (1,), (17, 5)]
FEWER = [(5, 3), (7,), (), (17, 5)]  # a graph of operators compiles long
STEPS = 3
CLIPPED, FLAT, COMPOSITE = dict(max_grad_norm=0.5), dict(flat_state=True), dict(backend="composite")
MASTERS = dict(master_weights=True, dtypes=["float16", "bfloat16", "float32"])
LAZY, SPARSE = dict(use_lazy=True), dict(sparse=True)
CASES = {
    "Adam": {},
    "AdamW, Nesterov": dict(optimizer="AdamW", weight_decay=0.1, use_nesterov=True),
    "AMSGrad": dict(use_amsgrad=True),
    "flat": FLAT,
    "flat, clipping, AMSGrad": dict(**FLAT, **CLIPPED, use_amsgrad=True),
    "flat, composite": dict(**FLAT, **CLIPPED, **COMPOSITE, shapes=FEWER),
    "primitive": dict(backend="primitive"),
    "dtypes": dict(dtypes=["float16", "float32", "bfloat16", "float64"]),
    "composite": dict(**COMPOSITE, **CLIPPED, shapes=FEWER, dtypes=["float16", "float32"]),
    "master weights, composite": dict(**MASTERS, **COMPOSITE, shapes=FEWER),
    "master weights": dict(**MASTERS, **CLIPPED),
    "groups, clipping": dict(**CLIPPED, groups=True),
    "one parameter": dict(shapes=[(6, 2)]),
    "one number": dict(shapes=[()]),
    "one parameter, composite": dict(**COMPOSITE, shapes=[(6, 2)]),
    "one large table": dict(shapes=[(300, 4), (3,), (2, 2)]),
    "empty": dict(shapes=[(0, 3), (4,), (2,)]),
    "large": dict(**CLIPPED, shapes=[(900, 90), (70000,), (33, 7)]),
    "lazy, flat, master weights": dict(
        **LAZY, **SPARSE, **FLAT, dtypes=["float16"], master_weights=True
    ),
    "lazy, groups": dict(**LAZY, groups=True),
    "lazy, clipping": dict(**LAZY, **SPARSE, **CLIPPED),
    "lazy, composite": dict(**LAZY, **SPARSE, **COMPOSITE, shapes=FEWER),
    "sparse": SPARSE,
}


def make(case, sharded):
    return _make(sharded, **case)


def _make(
    sharded,
    optimizer="Adam",
    shapes=SHAPES,
    dtypes=("float32",),
    groups=False,
    sparse=False,  # of the gradients
    **options,
):
    random = np.random.default_rng(0)
    given = []
    for i, (shape, dtype) in enumerate(zip(shapes, itertools.cycle(dtypes))):
        value = Tensor(np.asarray(random.standard_normal(shape)), getattr(ms, dtype))
        given.append(Parameter(value, name=f"w{i}"))
    if groups:
        given = [
            {"params": given[:2], "lr": 0.05, "weight_decay": 0.1},
            {"params": given[2:5], "grad_centralization": True},
            {"params": given[5:]},
        ]
    return getattr(ms_adam, optimizer)(given, 0.01, shard_state=sharded, **options)


def gradient(parameter, random, sparse):
    dtype = parameter.dtype
    if sparse and parameter.ndim == 2 and parameter.shape[0] > 4:
        rows = Tensor(random.integers(0, parameter.shape[0], 4), ms.int32)
        return rows, Tensor(random.standard_normal((4, *parameter.shape[1:])), dtype)
    return Tensor(np.asarray(random.standard_normal(parameter.shape)), dtype)


def run(optimizer, steps, seed, sparse):
    random = np.random.default_rng(seed)
    for _ in range(steps):
        optimizer(tuple(gradient(p, random, sparse) for p in optimizer.parameters))


def bits(value):
    """A copy in float64, which holds every dtype exactly."""
    return to_numpy(value).astype(np.float64)


def bits_of(values):
    return {name: bits(value) for name, value in values.items()}


def different(ones, others):
    """The names that only one of them has, or whose bits differ."""
    return sorted(set(ones) ^ set(others)) + [
        name for name in set(ones) & set(others) if not np.array_equal(ones[name], others[name])
    ]


def held(optimizer):
    """Bytes of the moments and master weights on this rank."""
    own = [*optimizer.moment1, *optimizer.moment2, *getattr(optimizer, "vhat", ())]
    masters = zip(getattr(optimizer, "master_weights", ()), optimizer.parameters)
    own += [master for master, parameter in masters if master is not parameter]
    return sum(value.nbytes for value in own)


def weights(optimizer):
    return {parameter.name: parameter for parameter in optimizer.parameters}


def tag(name):
    """The name of a case's files."""
    return name.replace(" ", "_").replace(",", "")


def compared(optimizer):
    """The state as `ms-adam compare` records it."""
    one = (Gathered if Gathered.runs(optimizer) else MindSporeOptimizer)(optimizer)
    state = {**one.state(), "master": list(map(to_numpy, masters_of(one) or ()))}
    return {
        f"{quantity}.{i}": np.array(array, np.float64)
        for quantity, arrays in state.items()
        for i, array in enumerate(arrays)
    }


def go(optimizer, sparse):
    """Makes steps, then one more, restores the state before it, and goes on.

    Returns all bits, and the state at the end.
    """
    run(optimizer, STEPS, 1, sparse)
    state = ms_adam.gather_state(optimizer)
    found = {
        "after steps": bits_of(weights(optimizer)),
        "state": bits_of(state),
        "as compared": compared(optimizer),
    }
    run(optimizer, 1, 3, sparse)
    ms_adam.load_state(optimizer, state)
    run(optimizer, 2, 2, sparse)
    found["gone on"] = bits_of(weights(optimizer))
    state = ms_adam.gather_state(optimizer)
    found["state gone on"] = bits_of(state)
    return found, state


def digest(found):
    content = hashlib.sha256()
    for what, values in found.items():
        for name, value in values.items():
            content.update(f"{what}, {name}".encode())
            content.update(value.tobytes())
    return content.hexdigest()


def with_shards(name, case, ranks, others):
    """The results of the steps, and the values for the test."""
    optimizer = make(case, True)
    results, gathered = go(optimizer, case.get("sparse", False))
    found = {
        "digest": digest(results),
        "bytes": held(optimizer),
        "bytes of all": held(make(case, False)),
        "elements": sum(own[1] for own in optimizer.shares.owned if own is not None),
    }
    # The share that this rank saves; the test reads all of them, and so does another launch.
    path = ranks.folder / tag(name)
    ms.save_checkpoint(optimizer, f"{path}-{ranks.rank}.ckpt")
    if ranks.rank == 0:
        entries = [{"name": name, "data": value} for name, value in gathered.items()]
        ms.save_checkpoint(entries, f"{path}-gathered.ckpt")
    if others is not None:
        path, count = Path(others[0]) / tag(name), others[1]
        with np.load(f"{path}.npz") as expected:
            shares = [f"{path}-{rank}.ckpt" for rank in range(count)]
            for what, checkpoint in ("shares", shares), ("gathered", f"{path}-gathered.ckpt"):
                taken = make(case, True)
                ms_adam.load_state(taken, checkpoint)
                state = bits_of(ms_adam.gather_state(taken))
                found[f"from {what} of others"] = different(dict(expected), state)
    return results, found


def without(name, case, ranks, results):
    """The differences to an optimizer without shards."""
    expected, _ = go(make(case, False), case.get("sparse", False))
    np.savez(ranks.folder / f"{tag(name)}.npz", **expected["state gone on"])
    return {what: different(values, results[what]) for what, values in expected.items()}


class Network(nn.Cell):
    def __init__(self, sparse):
        super().__init__()
        # PyNative mode has no row-sparse gradients.
        self.table = nn.EmbeddingLookup(30, 4, sparse=True) if sparse else nn.Embedding(30, 4)
        self.dense = nn.Dense(4, 3)
        self.loss = nn.MSELoss()
        random = np.random.default_rng(0)
        for parameter in self.trainable_params():
            parameter.set_data(Tensor(random.standard_normal(parameter.shape), ms.float32))

    def construct(self, words, wanted):
        return self.loss(self.dense(self.table(words)), wanted)


def steps(backend, mode, ranks):
    """What differs after some compiled steps, or the error."""
    found = []
    for sharded in (True, False):
        network = Network(mode == "graph")
        options = dict(use_lazy=backend != "primitive", backend=backend, shard_state=sharded)
        optimizer = ms_adam.Adam(network.trainable_params(), 0.01, **options)
        parameters = optimizer.parameters
        reducer = nn.DistributedGradReducer(parameters, mean=True, degree=ranks.count)
        step = TrainStep(network, optimizer, reducer=reducer)
        random = np.random.default_rng([ranks.rank, 7])  # each rank has examples of its own
        try:
            for _ in range(3):
                words = Tensor(random.integers(0, 30, 5), ms.int32)
                step(words, Tensor(random.standard_normal((5, 3)), ms.float32))
        except ValueError as error:
            return "ValueError: " + short_message(error).strip("'")
        found.append({str(i): bits(parameter) for i, parameter in enumerate(parameters)})
    return different(*found)


def error_of_share_of_another(ranks):
    """The error of loading only the share of another rank."""
    other = ranks.folder / f"Adam-{(ranks.rank + 1) % ranks.count}.ckpt"
    try:
        ms_adam.load_state(make(CASES["Adam"], True), str(other))
    except ValueError as error:
        return str(error)
    return "nothing"


def work(job, ranks):
    remember_sources()
    results, found = {}, {"cases": {}}
    for name, case in CASES.items():
        results[name], found["cases"][name] = with_shards(name, case, ranks, job.get("others"))
        ranks.tell("case", name=name)
    backends = ("fused", "primitive", "composite")
    found["steps"] = {backend: steps(backend, job["mode"], ranks) for backend in backends}
    found["share of another"] = error_of_share_of_another(ranks)  # all ranks have saved theirs
    found["different"] = {
        name: without(name, case, ranks, results[name])
        for i, (name, case) in enumerate(CASES.items())
        if i % ranks.count == ranks.rank
    }
    (ranks.folder / f"found_{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.exit(serve(work))
