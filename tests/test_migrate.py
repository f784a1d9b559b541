"""docs/migrate.md: the tests read its tables and run the calls in them.

PyTorch is not needed. migrate_torch.json holds the results of its optimizers for the gradients of
this file; `python tests/test_migrate.py` writes it if PyTorch is installed. The tests then also run
PyTorch itself.
"""

import ast
import functools
import importlib.util
import inspect
import json
import re
from pathlib import Path
from typing import NamedTuple

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, experimental, mint, nn, ops

import ms_adam
from ms_adam import reference

PAGE = Path(__file__).parent.parent / "docs" / "migrate.md"
TORCH_NUMBERS = Path(__file__).parent / "migrate_torch.json"
TORCH_HERE = importlib.util.find_spec("torch") is not None

STEPS = 100

# Sizes of gradients at which an epsilon of 1e-6 or 1e-8 matters, and a name without weight decay.
# RandomState, because NumPy promises not to change its numbers: PyTorch's results are on disk.
SIZES = {"norm.gamma": 1.0, "conv.weight": 1e-3, "embedding.weight": 1e-6}
_RANDOM = np.random.RandomState(0)
START = {name: (0.03 * _RANDOM.standard_normal((2, 4))).astype(np.float32) for name in SIZES}
GRADIENTS = {
    name: (size * (0.5 + _RANDOM.standard_normal((STEPS, 2, 4)))).astype(np.float32)
    for name, size in SIZES.items()
}

# Largest difference of two float32 computations of one formula after 100 steps, in units of the
# largest displacement D of a tensor. u = 2^-24 is half the distance of neighbouring float32.
# - beta2. MindSpore's kernels compute 1 - float32(0.999), which is 1.29e-5 too small. Bias
#   correction uses the same beta2 and cancels the error. Without it, or if a large epsilon hides
#   the root, the root is 6.4e-6 too small in every step. This is by far the largest part.
# - beta2^t as a running product in float32. The step size of step t is off by at most 7e-6 (t = 3),
#   with both signs, and by 7e-7 on average. This needs bias correction, so it does not add to the
#   first part.
# - Rounding of the weights, of size D, once a step on either side: 200 independent roundings with a
#   standard deviation of at most u D / sqrt(3). Six times that of their sum is 6 sqrt(200 / 3) u =
#   2.9e-6.
# - Rounding in the step: up to 10 independent roundings in each of 100 steps of about D / 100:
#   6 sqrt(2 * 10 * 100) u / 100 / sqrt(3) = 1e-7.
# 6.4e-6 + 2.9e-6 + 1e-7 = 9.4e-6.
BOUND = 1e-5
APART = 10  # a different formula must differ by at least this many times the bound


# --- the page ----------------------------------------------------------------------------------


class Row(NamedTuple):
    there: str
    same: str
    paper: str = ""  # in the first table

    def __str__(self):
        return self.there


def tables():
    """Yields the rows of each table with calls; the last column, of remarks, is left out."""
    for lines in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(), re.MULTILINE):
        if "the same numbers here" not in lines:
            continue
        rows = [line.strip("| \n").split(" | ") for line in lines.splitlines()[2:]]
        yield [Row(*(re.fullmatch("`(.*)`", cell).group(1) for cell in row[:-1])) for row in rows]


ROWS, ARGUMENTS = tables()
CAN_RUN = [
    row
    for row in ROWS + ARGUMENTS
    if not row.there.startswith("mint") or ms.get_context("device_target") == "Ascend"
]


def test_the_page_has_a_row_for_each():
    assert [row.there for row in ROWS] == [
        "nn.Adam(params)",
        "nn.Adam(params, use_lazy=True)",
        "nn.Adam(params, use_offload=True)",
        "nn.LazyAdam(params)",
        "nn.AdamOffload(params)",
        "nn.AdamWeightDecay(params)",
        "experimental.optim.Adam(params)",
        "experimental.optim.AdamW(params)",
        "mint.optim.AdamW(params)",
        "torch.optim.Adam(params)",
        "torch.optim.AdamW(params)",
    ]


# --- its calls ---------------------------------------------------------------------------------

PACKAGES = {"nn": nn, "experimental": experimental, "mint": mint, "ms_adam": ms_adam}


def make(text, params, given=(), packages=PACKAGES):
    """Makes the optimizer of a call of the page; `given` replaces arguments in the text."""
    call = ast.parse(text, mode="eval").body
    optimizer = eval(ast.unparse(call.func), packages)
    params = eval(ast.unparse(call.args[0]), {"params": params})
    return optimizer(params, **{**written(call), **dict(given)})


def written(call):
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}


def given(there):
    """Returns the arguments to try, as pairs of name and value: none, and a user's own values."""
    own = {"eps": 1e-7, "weight_decay": 0.05}
    if there.startswith("nn."):
        own.update(learning_rate=0.01, beta1=0.8, beta2=0.99)
    else:
        own.update(lr=0.01, betas=(0.8, 0.99))
    if there in ("nn.Adam(params)", "nn.LazyAdam(params)", "nn.AdamOffload(params)"):
        own.update(use_nesterov=True, loss_scale=8.0)
    return ((), tuple(own.items()))


@functools.cache
def displacements(text, given, mode, resting=False):
    """Returns the displacement of each element after 100 steps of an optimizer of MindSpore.

    With `resting`, the first row of each tensor has a gradient only in every second step.
    """
    parameters = [Parameter(Tensor(START[name]), name=name) for name in SIZES]
    optimizer = make(text, parameters, given)
    for t in range(STEPS):
        gradients = [GRADIENTS[name][t].copy() for name in SIZES]
        if resting and t % 2:
            for gradient in gradients:
                gradient[0] = 0
        optimizer(tuple(map(Tensor, gradients)))
    return [
        parameter.asnumpy().astype(np.float64) - START[parameter.name] for parameter in parameters
    ]


def torch_weights(text, given):
    import torch

    parameters = [torch.nn.Parameter(torch.tensor(START[name])) for name in SIZES]
    optimizer = make(text, parameters, given, {"torch": torch})
    for t in range(STEPS):
        for name, parameter in zip(SIZES, parameters):
            parameter.grad = torch.tensor(GRADIENTS[name][t])
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in zip(SIZES, parameters)}


def write_torch_numbers():
    import torch

    results = [
        {
            "call": row.there,
            "given": dict(values),
            # the shortest text of the same float32
            "weights": {
                name: [float(str(x)) for x in weight.ravel()]
                for name, weight in torch_weights(row.there, values).items()
            },
        }
        for row in ROWS + ARGUMENTS
        if row.there.startswith("torch")
        for values in given(row.there)
    ]
    environment = {"torch": torch.__version__, "command": "python tests/test_migrate.py"}
    TORCH_NUMBERS.write_text(
        json.dumps({"schema": 1, "environment": environment, "results": results}, indent=1) + "\n"
    )


def torch_on_disk(text, given):
    given = json.loads(json.dumps(dict(given)))  # JSON turns tuples into lists
    found = [
        result["weights"]
        for result in json.loads(TORCH_NUMBERS.read_text())["results"]
        if result["call"] == text and result["given"] == given
    ]
    assert len(found) == 1, text
    return {
        name: np.array(weight, np.float32).reshape(START[name].shape)
        for name, weight in found[0].items()
    }


def there(row, given, mode):
    """Returns the displacements of a row's own optimizer, from each source that is available."""
    if not row.there.startswith("torch"):
        return [displacements(row.there, given, mode)]
    accounts = [torch_on_disk(row.there, given)]
    if TORCH_HERE:
        accounts.append(torch_weights(row.there, given))
    return [
        [weights[name].astype(np.float64) - START[name] for name in SIZES] for weights in accounts
    ]


def here(row, given, mode):
    return displacements(row.same, given, mode)


def distance(ours, theirs):
    """Returns the largest difference in units of the tensor's largest displacement, or NaN."""
    return np.max([np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in zip(ours, theirs)])


def paper(text, given):
    """Returns the displacements of the float64 reference for a call of ours."""
    call = ast.parse(text, mode="eval").body
    optimizer = getattr(ms_adam, call.func.attr)
    options = {
        "weight_decay": inspect.signature(optimizer).parameters["weight_decay"].default,
        **written(call),
        **dict(given),
    }
    for name in ("use_lazy", "use_offload"):  # these do not change the formula
        options.pop(name, None)
    if "betas" in options:
        options["beta1"], options["beta2"] = options.pop("betas")
    if "lr" in options:
        options["learning_rate"] = options.pop("lr")
    options["nesterov"] = options.pop("use_nesterov", False)
    grouped = not isinstance(call.args[0], ast.Name)
    results = []
    for name in SIZES:
        decay = 0.0 if "gamma" in name and not grouped else options["weight_decay"]
        adam = reference.Adam(
            **{**options, "weight_decay": decay}, decoupled=optimizer is ms_adam.AdamW
        )
        weight, state = START[name], adam.init(START[name])
        for gradient in GRADIENTS[name]:
            weight, state = adam.step(weight, gradient, state)
        results.append(weight - START[name])
    return results


# --- tests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", CAN_RUN, ids=str)
def test_the_same_numbers(row, mode):
    for values in given(row.there):
        for account in there(row, values, mode):
            assert distance(here(row, values, mode), account) < BOUND, values


@pytest.mark.parametrize("row", [row for row in CAN_RUN if row.paper], ids=str)
def test_the_papers_numbers(row):
    ms.set_context(mode=ms.GRAPH_MODE)
    for values in given(row.there):
        assert (
            distance(displacements(row.paper, values, "graph"), paper(row.paper, values)) < BOUND
        ), values
    if row.paper != row.same:
        for account in there(row, (), "graph"):
            assert distance(account, paper(row.paper, ())) > APART * BOUND


def without(text):
    """Yields each argument of our call that matters, and the call without it."""
    names = [keyword.arg for keyword in ast.parse(text, mode="eval").body.keywords]
    for i, name in enumerate(names):
        tree = ast.parse(text, mode="eval")
        del tree.body.keywords[i]
        yield name, ast.unparse(tree)
    if "[" in text:
        yield (
            "the group",
            text.replace("[{'params': params}]", "params").replace(
                '[{"params": params}]', "params"
            ),
        )
    old, new = ("AdamW(", "Adam(") if "AdamW(" in text else ("Adam(", "AdamW(")
    yield "the class", text.replace(old, new)


@pytest.mark.parametrize("row", CAN_RUN, ids=str)
def test_each_difference_is_one(row):
    ms.set_context(mode=ms.GRAPH_MODE)
    for name, text in without(row.same):
        left = row._replace(same=text)
        if name == "use_offload":  # changes no number, says the page
            for values in given(row.there):
                assert distance(here(left, values, "graph"), here(row, values, "graph")) == 0
            continue
        if name == "use_lazy":  # matters only for sparse gradients
            assert distance(sparse(text), sparse(row.there, target="CPU")) > APART * BOUND
            continue
        assert any(
            distance(here(left, values, "graph"), account) > APART * BOUND
            for values in given(row.there)
            for account in there(row, values, "graph")
        ), name


# --- row-sparse gradients ----------------------------------------------------------------------

WORDS, NAMED, WIDTH = 12, 6, 4  # rows of a table; rows named in a step, with repetitions
TABLES = {"words": 1.0, "seldom": 1e-6}
INDICES = _RANDOM.randint(0, WORDS, (STEPS, NAMED)).astype(np.int32)
VALUES = np.stack(
    [size * (0.5 + _RANDOM.standard_normal((STEPS, NAMED, WIDTH))) for size in TABLES.values()],
    axis=1,
).astype(np.float32)


class Lookups(nn.Cell):
    """Has the gradient VALUES in the named rows of each table, whatever the tables hold."""

    def __init__(self):
        super().__init__()
        zeros = Tensor(np.zeros((WORDS, WIDTH), np.float32))
        self.tables = nn.CellList(
            [nn.EmbeddingLookup(WORDS, WIDTH, param_init=zeros, sparse=True) for _ in TABLES]
        )

    def construct(self, indices, values):
        total = 0.0
        for i, lookup in enumerate(self.tables):
            total += (lookup(indices) * values[i]).sum()
        return total


class SparseStep(nn.Cell):
    def __init__(self, network, optimizer):
        super().__init__()
        self.optimizer = optimizer
        self.value_and_grad = ms.value_and_grad(network, None, optimizer.parameters)

    def construct(self, indices, values):
        value, gradients = self.value_and_grad(indices, values)
        return ops.depend(value, self.optimizer(gradients))


@functools.cache
def sparse(text, target=None):
    """Returns the tables after 100 row-sparse gradients in graph mode."""
    ms.set_context(mode=ms.GRAPH_MODE)
    network = Lookups()
    optimizer = make(text, network.trainable_params())
    if target:
        optimizer.target = target
    step = SparseStep(network, optimizer)
    for t in range(STEPS):
        step(Tensor(INDICES[t]), Tensor(VALUES[t]))
    return [parameter.asnumpy().astype(np.float64) for parameter in optimizer.parameters]


SPARSE = [
    row
    for row in ROWS
    if row.there in ("nn.Adam(params)", "nn.Adam(params, use_lazy=True)", "nn.LazyAdam(params)")
]


@pytest.mark.parametrize("row", SPARSE, ids=str)
def test_sparse_gradients(row):
    assert distance(sparse(row.same), sparse(row.there, target="CPU")) < BOUND


def test_a_row_of_zeros_in_a_dense_gradient_is_a_row_only_there(mode):
    lazy, ours, plain = (
        displacements(text, (), mode, resting=True)
        for text in (
            "nn.Adam(params, use_lazy=True)",
            "ms_adam.Adam(params, use_lazy=True, epsilon_hat=True)",
            "ms_adam.Adam(params, epsilon_hat=True)",
        )
    )
    assert distance(plain, lazy) < BOUND
    assert distance(ours, lazy) > APART * BOUND


# --- trainers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulated", [1, 2, 4])
def test_a_schedule_advances_on_updates_and_not_on_get_lr(accumulated, mode):
    """MindCV's train step calls get_lr() for each batch while it accumulates gradients."""
    weight = Parameter(Tensor(START["conv.weight"]), name="conv.weight")
    optimizer = ms_adam.AdamW(
        [weight],
        learning_rate=[0.1 * 2**-i for i in range(8)],
        beta1=0.0,
        beta2=0.0,
        eps=1e-30,
        weight_decay=0.0,
    )
    for update in range(3):
        for _ in range(accumulated - 1):
            optimizer.get_lr()
        before = weight.asnumpy().astype(np.float64)
        optimizer((Tensor(GRADIENTS["conv.weight"][update]),))
        # With betas of 0 each element moves by the learning rate.
        np.testing.assert_allclose(np.abs(weight.asnumpy() - before), 0.1 * 2.0**-update, rtol=1e-5)
    assert int(optimizer.global_step) == 3


@pytest.mark.parametrize("norm", [1e-3, 1.0, 1e3])
def test_clipping_without_the_1e_6_of_mindformers(norm):
    gradient = GRADIENTS["conv.weight"][0].astype(np.float64)
    gradient = np.float32(gradient * (norm / np.sqrt(np.sum(gradient**2))))
    norm = np.sqrt(np.sum(gradient.astype(np.float64) ** 2))
    most = norm / 8
    optimizer = ms_adam.Adam(
        [Parameter(Tensor(START["conv.weight"]), name="conv.weight")],
        beta1=0.0,
        max_grad_norm=float(most),
    )
    optimizer((Tensor(gradient),))
    clipped = optimizer.moment1[0].asnumpy().astype(np.float64)
    # The norm, the quotient, the product and the moment are rounded.
    np.testing.assert_allclose(clipped, gradient * (most / norm), rtol=6 * 2.0**-24)
    mindformers = gradient * (most / (norm + 1e-6))
    difference = np.max(np.abs(clipped / mindformers - 1))
    np.testing.assert_allclose(difference, 1e-6 / norm, rtol=1e-3, atol=6 * 2.0**-24)


# --- not available -----------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in ROWS if row not in CAN_RUN], ids=str)
def test_optimizers_for_ascend_do_not_run_here(row, mode):
    with pytest.raises(RuntimeError, match="AdamW"):
        displacements(row.there, (), mode)


if __name__ == "__main__":
    write_torch_numbers()
