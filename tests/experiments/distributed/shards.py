"""A rank of test_sharding.py: holds optimizers with shards to optimizers without, bit for bit.

It writes what it found to found_<rank>.json in the launch's folder.
"""

import hashlib
import json
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

import ms_adam
from ms_adam.experiments.distributed.rank import serve

SHAPES = [(5, 3), (7,), (), (40, 4), (3, 2, 2), (1,), (17, 5)]
STEPS = 3
CASES = {
    "Adam": {},
    "AdamW": {"optimizer": "AdamW", "weight_decay": 0.1},
    "AMSGrad": {"use_amsgrad": True},
    "Nesterov, L2": {"use_nesterov": True, "weight_decay": 0.1},
    "clipping": {"max_grad_norm": 0.5},
    "clipping, composite": {"max_grad_norm": 0.5, "backend": "composite"},
    "flat": {"flat_state": True},
    "flat, clipping, AMSGrad": {"flat_state": True, "max_grad_norm": 0.5, "use_amsgrad": True},
    "primitive": {"backend": "primitive"},
    "composite": {"backend": "composite"},
    "float16": {"dtypes": ["float16"]},
    "dtypes": {"dtypes": ["float16", "float32", "bfloat16", "float64"]},
    "dtypes, composite": {"dtypes": ["float16", "float32"], "backend": "composite"},
    "master weights, composite": {"dtypes": ["float16", "bfloat16", "float32"],
                                  "master_weights": True, "backend": "composite"},
    "master weights": {"dtypes": ["float16", "bfloat16", "float32"], "master_weights": True},
    "master weights, clipping": {"dtypes": ["float16", "bfloat16", "float32"],
                                 "master_weights": True, "max_grad_norm": 0.5},
    "groups": {"groups": True},
    "groups, clipping": {"groups": True, "max_grad_norm": 0.5},
    "one parameter": {"shapes": [(6, 2)]},
    "one number": {"shapes": [()]},
    "one parameter, composite": {"shapes": [(6, 2)], "backend": "composite"},
    "one large table": {"shapes": [(300, 4), (3,), (2, 2)]},
    "one large table, composite": {"shapes": [(300, 4), (3,), (2, 2)], "backend": "composite"},
    "empty": {"shapes": [(0, 3), (4,), (2,)]},
    "large": {"shapes": [(900, 90), (70000,), (33, 7)], "max_grad_norm": 0.5},
    "lazy": {"use_lazy": True, "sparse": True},
    "lazy, flat, master weights": {"use_lazy": True, "sparse": True, "dtypes": ["float16"],
                                   "flat_state": True, "master_weights": True},
    "lazy, groups": {"use_lazy": True, "groups": True},
    "lazy, clipping": {"use_lazy": True, "sparse": True, "max_grad_norm": 0.5},
    "lazy, composite": {"use_lazy": True, "sparse": True, "backend": "composite"},
    "sparse": {"sparse": True},
}


def make(case, sharded):
    options = dict(case)
    shapes = [tuple(shape) for shape in options.pop("shapes", SHAPES)]
    dtypes = options.pop("dtypes", ["float32"])
    options.pop("sparse", None)
    random = np.random.default_rng(0)
    parameters = [
        Parameter(Tensor(np.asarray(random.standard_normal(shape)),
                         getattr(ms, dtypes[i % len(dtypes)])), name=f"w{i}")
        for i, shape in enumerate(shapes)]
    given = parameters
    if options.pop("groups", False):
        given = [{"params": parameters[:2], "lr": 0.05, "weight_decay": 0.1},
                 {"params": parameters[2:5], "grad_centralization": True},
                 {"params": parameters[5:]}]
    kind = getattr(ms_adam, options.pop("optimizer", "Adam"))
    return kind(given, 0.01, shard_state=sharded, **options)


def gradient(parameter, random, sparse):
    dtype = parameter.dtype
    if sparse and parameter.ndim == 2 and parameter.shape[0] > 4:
        rows = random.integers(0, parameter.shape[0], 4)
        return (Tensor(rows, ms.int32),
                Tensor(random.standard_normal((4, *parameter.shape[1:])), dtype))
    return Tensor(np.asarray(random.standard_normal(parameter.shape)), dtype)


def run(optimizer, steps, seed, sparse):
    random = np.random.default_rng(seed)
    for _ in range(steps):
        optimizer(tuple(gradient(p, random, sparse) for p in optimizer.parameters))


def bits(value):
    """Without rounding: float64 holds every dtype."""
    value = value.astype(ms.float32) if value.dtype == ms.bfloat16 else value
    return np.array(value.asnumpy()).astype(np.float64)


def different(ones, others):
    return [name for name in ones if not np.array_equal(bits(ones[name]), bits(others[name]))]


def held(optimizer):
    """Bytes of moments and master weights that this rank has."""
    own = [*optimizer.moment1, *optimizer.moment2, *getattr(optimizer, "vhat", ())]
    own += [weight for weight, parameter in zip(getattr(optimizer, "master_weights", ()),
                                                optimizer.parameters) if weight is not parameter]
    return sum(value.nbytes for value in own)


def weights(optimizer):
    return {parameter.name: parameter for parameter in optimizer.parameters}


def tag(name):
    """What the files of a case are called."""
    return name.replace(" ", "_").replace(",", "")


def look_at(name, case, ranks, others):
    sparse = case.get("sparse", False)
    sharded, whole = make(case, True), make(case, False)
    run(sharded, STEPS, 1, sparse)
    run(whole, STEPS, 1, sparse)
    found = {"after steps": different(weights(whole), weights(sharded))}
    state, expected = ms_adam.gather_state(sharded), ms_adam.gather_state(whole)
    found["names"] = sorted(set(state) ^ set(expected))
    found["gathered"] = different(expected, state)
    found["bytes"], found["bytes of all"] = held(sharded), held(whole)
    found["elements"] = sum(own[1] for own in sharded.shares.owned if own is not None)

    # A step, back to the state before it, and on.
    for optimizer in (sharded, whole):
        run(optimizer, 1, 3, sparse)
        ms_adam.load_state(optimizer, state)
        run(optimizer, 2, 2, sparse)
    found["gone on"] = different(weights(whole), weights(sharded))
    state, expected = ms_adam.gather_state(sharded), ms_adam.gather_state(whole)
    found["state gone on"] = different(expected, state)
    found["digest"] = hashlib.sha256(b"".join(bits(value).tobytes() for value
                                              in weights(sharded).values())).hexdigest()

    # The share that this rank saves; the test reads all of them, and so does the next launch.
    path = ranks.folder / tag(name)
    ms.save_checkpoint(sharded, f"{path}-{ranks.rank}.ckpt")
    if ranks.rank == 0:
        np.savez(f"{path}.npz", **{name: bits(value) for name, value in expected.items()})
        ms.save_checkpoint([{"name": name, "data": value} for name, value in state.items()],
                           f"{path}-gathered.ckpt")
    if others is not None:
        path, count = Path(others[0]) / tag(name), others[1]
        with np.load(f"{path}.npz") as arrays:
            expected = {name: Tensor(arrays[name]) for name in arrays.files}
        for what, checkpoint in (("shares", [f"{path}-{rank}.ckpt" for rank in range(count)]),
                                 ("gathered", f"{path}-gathered.ckpt")):
            taken = make(case, True)
            ms_adam.load_state(taken, checkpoint)
            found[f"from {what} of others"] = different(expected, ms_adam.gather_state(taken))
    return found


class Network(nn.Cell):
    def __init__(self, sparse):
        super().__init__()
        self.table, self.dense = nn.EmbeddingLookup(30, 4, sparse=sparse), nn.Dense(4, 3)
        self.loss = nn.MSELoss()
        random = np.random.default_rng(0)
        for parameter in self.trainable_params():
            parameter.set_data(Tensor(random.standard_normal(parameter.shape), ms.float32))

    def construct(self, words, wanted):
        return self.loss(self.dense(self.table(words)), wanted)


class Step(nn.Cell):
    """A step that is compiled as one: gradients, their mean over the ranks, the update."""

    def __init__(self, network, optimizer, count):
        super().__init__()
        self.network, self.optimizer = network, optimizer
        self.gradients = ops.grad(network, None, optimizer.parameters)
        self.reducer = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=count)

    def construct(self, words, wanted):
        return self.optimizer(self.reducer(self.gradients(words, wanted)))


def steps(backend, mode, ranks):
    """What differs after some steps, or the error."""
    networks = []
    for sharded in (False, True):
        network = Network(mode == "graph")
        optimizer = ms_adam.Adam(network.trainable_params(), 0.01, use_lazy=backend != "primitive",
                                 backend=backend, shard_state=sharded)
        step = Step(network, optimizer, ranks.count)
        random = np.random.default_rng([ranks.rank, 7])  # each rank has examples of its own
        try:
            for _ in range(3):
                step(Tensor(random.integers(0, 30, 5), ms.int32),
                     Tensor(random.standard_normal((5, 3)), ms.float32))
        except ValueError as error:
            return f"ValueError: {error}"
        networks.append(network)
    return different(*({str(i): parameter for i, parameter in enumerate(network.trainable_params())}
                       for network in networks))


def error_of_share_of_another(ranks):
    """What a rank says that is given the share of another alone."""
    other = ranks.folder / f"Adam-{(ranks.rank + 1) % ranks.count}.ckpt"
    try:
        ms_adam.load_state(make(CASES["Adam"], True), str(other))
    except ValueError as error:
        return str(error)
    return "nothing"


def work(job, ranks):
    found = {"cases": {}}
    for name, case in CASES.items():
        if job.get("only") in (None, name):
            found["cases"][name] = look_at(name, case, ranks, job.get("others"))
            ranks.tell("case", name=name)
    if job.get("only") is None:
        ranks.meet()  # all shares are saved
        found["share of another"] = error_of_share_of_another(ranks)
        found["steps"] = {backend: steps(backend, job["mode"], ranks)
                          for backend in ("fused", "primitive", "composite")}
    (ranks.folder / f"found_{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.exit(serve(work))
