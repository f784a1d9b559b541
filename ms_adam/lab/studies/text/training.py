"""Training on text: one side from one seed. It runs in the mode that its process is in."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Callable

import mindspore
import numpy as np
from mindspore import nn

from ms_adam.lab.problems.bag_of_words import BagOfWords, TextStep
from ms_adam.lab.problems.text import Bags, TextSplit
from ms_adam.lab.run.config import AdamSettings
from ms_adam.lab.studies.text.config import SIDES, Side, TextExperiment

# What is compared with the sides that are followed, on their own gradients.
_FOLLOWER = SIDES["nn_lazy"]


class TextTraining:
    """A training that goes on epoch by epoch, so that several can take turns.

    Args:
        experiment: What to train, and how.
        split: The snippets.
        side: The name of a side.
        seed: Decides the first weights and the order of the batches.
    """

    def __init__(self, experiment: TextExperiment, split: TextSplit, side: str, seed: int):
        self._side = SIDES[side]
        self._split = split
        row_sparse = self._side.gradients == "rows"
        self._model = BagOfWords(split.rows, experiment.model.width, row_sparse, seed)
        self._parameters = list(self._model.trainable_params())
        self._optimizer = make_optimizer(self._side, self._parameters, experiment.adam)
        self._initial = _flat(self._parameters)
        self._followed_by, follower = [], None
        if self._side.followed:
            self._followed_by = [
                mindspore.Parameter(mindspore.Tensor(np.array(p.asnumpy())), name=f"own.{p.name}")
                for p in self._parameters
            ]
            follower = make_optimizer(_FOLLOWER, self._followed_by, experiment.adam)
        self._step = TextStep(self._model, self._optimizer, follower)
        batch_size = experiment.training.batch_size
        self._epochs = epochs(split.train, batch_size, experiment.training.epochs, seed)
        self._found: dict[str, list] = {
            name: []
            for name in ("loss", "step_ms", "test_accuracy", "test_loss", "digest", "follower")
        }
        self._first: dict[str, np.ndarray] = {}

    def epoch(self, done: Callable[[], None]) -> None:
        """Trains for an epoch and tests; `done` is called after each step."""
        for words, shares, labels in next(self._epochs):
            inputs = [mindspore.Tensor(array) for array in (words, shares, labels)]
            started = time.perf_counter()
            loss = float(self._step(*inputs).asnumpy())  # waits until the step is made
            self._found["step_ms"].append(1e3 * (time.perf_counter() - started))
            self._found["loss"].append(loss)
            if not self._first:
                self._first = self._after_first_step(words)
            done()
        accuracy, loss = self._test()
        self._found["test_accuracy"].append(accuracy)
        self._found["test_loss"].append(loss)
        self._found["digest"].append(self._digest())
        if self._followed_by:
            self._found["follower"].append(self._distance_to_follower())

    def arrays(self) -> dict[str, np.ndarray]:
        """What is kept as .npz.

        Per step ``loss`` (before the update) and ``step_ms``. Per epoch ``test_accuracy``,
        ``test_loss``, ``digest`` (uint64; equal for equal bits in parameters and moments) and,
        where nn.Adam follows, ``follower``: max |p - nn.Adam's p| / max |nn.Adam's p - first p|.
        Per row of the table ``named_first``, how often the first batch names it, and
        ``moved_first``, how far the first step moves it. ``initial`` and ``final``: all parameters,
        the table first.
        """
        found = {name: np.array(values) for name, values in self._found.items() if values}
        return {**found, **self._first, "initial": self._initial, "final": _flat(self._parameters)}

    def facts(self) -> dict[str, object]:
        """What is kept as JSON."""
        return {"backend": getattr(self._optimizer, "backend", None)}

    def _after_first_step(self, words: np.ndarray) -> dict[str, np.ndarray]:
        table = self._parameters[0]
        way = table.asnumpy() - self._initial[: table.size].reshape(table.shape)
        return {
            "named_first": np.bincount(words.ravel(), minlength=len(way)),
            "moved_first": np.linalg.norm(way, axis=1),
        }

    def _test(self) -> tuple[float, float]:
        """Accuracy and mean cross-entropy on the held-out snippets."""
        bags = self._split.test
        inputs = (mindspore.Tensor(bags.words), mindspore.Tensor(bags.shares))
        logits = self._model(*inputs).asnumpy().astype(np.float64)
        chosen = logits[np.arange(len(bags)), bags.labels]
        cross_entropy = np.logaddexp.reduce(logits, axis=1) - chosen
        accuracy = np.mean(np.argmax(logits, axis=1) == bags.labels)
        return float(accuracy), float(np.mean(cross_entropy))

    def _digest(self) -> np.uint64:
        state = [*self._parameters, *self._optimizer.moment1, *self._optimizer.moment2]
        digest = hashlib.blake2b(_flat(state).tobytes(), digest_size=8).digest()
        return np.frombuffer(digest, dtype=np.uint64)[0]

    def _distance_to_follower(self) -> float:
        own, other = _flat(self._parameters), _flat(self._followed_by)
        way = np.max(np.abs(other - self._initial))
        return float(np.divide(np.max(np.abs(own - other)), way))


def make_optimizer(side: Side, parameters: list, settings: AdamSettings) -> nn.Optimizer:
    """The optimizer of a side."""
    if side.is_ours:
        from ms_adam import Adam
    else:
        Adam = nn.Adam
    optimizer = Adam(
        parameters,
        learning_rate=settings.learning_rate,
        beta1=settings.beta1,
        beta2=settings.beta2,
        eps=settings.eps,
        **side.options,
    )
    if side.target:
        optimizer.target = side.target
    return optimizer


def epochs(bags: Bags, batch_size: int, count: int, seed: int) -> Iterator[Iterator[tuple]]:
    """Yields each epoch's batches (words, shares, labels); one seed always gives one order."""
    # Not the generator of the weights: a model of another size must not change the order.
    random = np.random.default_rng([seed, 1])
    shares = bags.shares
    for _ in range(count):
        order = random.permutation(len(bags))
        batches = [
            order[start : start + batch_size]
            for start in range(0, len(bags) - batch_size + 1, batch_size)
        ]
        yield ((bags.words[batch], shares[batch], bags.labels[batch]) for batch in batches)


def _flat(tensors) -> np.ndarray:
    # Copies: an array from asnumpy() may share its memory with the tensor, which moves on.
    return np.concatenate([tensor.asnumpy().ravel() for tensor in tensors])
