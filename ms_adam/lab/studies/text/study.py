"""Trainings on text: exact and lazy Adam, ours and MindSpore's, row-sparse and dense gradients."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, Optional

import mindspore
import numpy as np
from mindspore import nn
from pydantic import Field

import ms_adam
from ms_adam.lab.measure import relative_distance
from ms_adam.lab.observers import Record, digest, flat, loss, step_ms
from ms_adam.lab.problems.networks import BagOfWords, held_out
from ms_adam.lab.problems.text import CLASSES, PADDING, TextSplit, load_text_split
from ms_adam.lab.run.config import (
    AdamSettings,
    Count,
    InBatches,
    Once,
    Section,
    Seed,
    Seeds,
    Share,
    Training,
)
from ms_adam.lab.run.study import Study
from ms_adam.lab.sides import Result, Run, Trainings, first_difference
from ms_adam.lab.studies.text.claims import CLAIMS
from ms_adam.lab.studies.text.sides import SIDES, Side
from ms_adam.lab.train import Step, TrainStep, copies, fused_loss

# Sides that must have the same bits: one formula, fed with one gradient in several forms.
EXACT = ("exact", "exact_rows", "exact_pynative")
LAZY = ("lazy", "lazy_pynative")

# What is compared with the sides that are followed, on their own gradients.
_FOLLOWER = SIDES["nn_lazy"]

# Two optimizers that move a row alike but for roundings: a step's 20 operations.
_ALIKE = 20 * 2.0**-24

_WORDS_SHOWN = 12
_SNIPPETS_WITH_A_SHOWN_WORD = 20  # rarer words are moved too seldom to say much


class TextData(Section):
    """Which snippets and words, and how the snippets are divided."""

    words: Count
    train: Count
    test: Count
    split_seed: Seed


class TextModel(Section):
    """The mean of the words' rows, then one dense layer."""

    width: Count


class TextCompare(Section):
    """Which sides train, from which seeds, and the accuracy that counts as trained."""

    sides: Annotated[list[Literal[tuple(SIDES)]], Field(min_length=1), Once]
    seeds: Seeds
    least_accuracy: Share


class TextExperiment(InBatches):
    """A config. See ``configs/text.yaml`` for the meaning of each key."""

    study: Literal["text"]
    data: TextData
    model: TextModel
    training: Training
    adam: AdamSettings
    compare: TextCompare


def load_data(experiment: TextExperiment) -> TextSplit:
    """Loads the snippets of a config."""
    data = experiment.data
    return load_text_split(data.words, data.train, data.test, data.split_seed)


def sides(experiment: TextExperiment) -> dict[str, list[str]]:
    """Each side trains in its mode."""
    return {side: [SIDES[side].mode] for side in experiment.compare.sides}


def training(experiment: TextExperiment, split: TextSplit, side: str, seed: int) -> Run:
    """Builds the training of one side from one seed.

    Per step it keeps ``loss`` (before the update) and ``step_ms``. Per epoch ``test_accuracy``,
    ``test_loss``, ``digest`` (uint64; equal for equal bits in parameters and moments) and, where
    nn.Adam follows, ``follower``: max |p - nn.Adam's p| / max |nn.Adam's p - first p|. Per row of
    the table, which comes first of the parameters, the arrays of `FirstStep`.
    """
    one, settings = SIDES[side], experiment.adam
    model = BagOfWords(split.rows, experiment.model.width, one.gradients == "rows", seed)
    parameters = list(model.trainable_params())
    optimizer = make_optimizer(one, parameters, settings)
    initial, follower = flat(parameters), None
    if one.followed:
        followed_by = copies(parameters)
        follower = make_optimizer(_FOLLOWER, followed_by, settings)
    step = TrainStep(model, optimizer, fused_loss(), follower=follower)

    def after_epoch(_) -> dict[str, Any]:
        found = held_out(model, (split.test.words, split.test.shares), split.test.labels)
        found["digest"] = digest(flat([*parameters, *optimizer.moment1, *optimizer.moment2]))
        if follower is not None:
            now = flat(parameters), flat(followed_by)
            found["follower"] = relative_distance(*now, initial)
        return found

    observers = [
        Record(lambda step: {**loss(step), **step_ms(step)}),
        Record(after_epoch, experiment.steps_per_epoch),
        FirstStep(parameters[0]),
    ]
    examples = (split.train.words, split.train.shares, split.train.labels)
    facts = {"optimizer": one.title, "backend": getattr(optimizer, "backend", None)}
    position = functools.partial(flat, parameters)
    return Run(experiment, examples, seed, step, position, observers, **facts)


class FirstStep:
    """Keeps how often the first batch names each row of a table, and how far its step moves it."""

    def __init__(self, table: mindspore.Parameter):
        self._table, self._initial = table, table.asnumpy().copy()
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(self, step: Step) -> None:
        if step.number == 1:
            way = self._table.asnumpy() - self._initial
            named = np.bincount(step.batch[0].ravel(), minlength=len(way))
            self._arrays = {"named_first": named, "moved_first": np.linalg.norm(way, axis=1)}

    def arrays(self) -> dict[str, np.ndarray]:
        return self._arrays


def make_optimizer(side: Side, parameters: list, settings: AdamSettings) -> nn.Optimizer:
    """Makes the optimizer of a side."""
    adam = ms_adam.Adam if side.is_ours else nn.Adam
    optimizer = adam(parameters, **settings.model_dump(), **side.options)
    if side.target:
        optimizer.target = side.target
    return optimizer


def row(experiment: TextExperiment, result: Result) -> dict[str, Any]:
    """Makes the study's columns of a run.

    Returns:
        ``step_ms`` is the median of each epoch's steps, in milliseconds, or None where nn.Adam took
        part of the time by following, and ``follower`` the largest distance to it at the end of an
        epoch, or None.
    """
    arrays, side = result.arrays, result.facts["side"]
    follower: Optional[np.ndarray] = arrays.get("follower")
    by_epoch = np.median(arrays["step_ms"].reshape(-1, experiment.steps_per_epoch), axis=1)
    return {
        "side": side,
        "test_loss": float(arrays["test_loss"][-1]),
        "test_accuracy": float(arrays["test_accuracy"][-1]),
        "step_ms": None if SIDES[side].followed else by_epoch.tolist(),
        "follower": None if follower is None else float(np.max(follower)),  # NaN stays NaN
    }


def more(experiment: TextExperiment, split: TextSplit, results: list[Result]) -> dict[str, Any]:
    return {
        "bags_sha256": split.fingerprint,
        "words_each": split.train.words_each,
        "commonest": split.test.commonest,
        "bits": [row for sides in (EXACT, LAZY) for row in compare_bits(results, *sides)],
        "duplicates": compare_first_step(results, "nn_lazy", "nn_lazy_default"),
        "telling_words": telling_words(split, results[0], experiment.model.width),
    }


def _side_pairs(results: list[Result], one: str, *others: str) -> list[tuple[Result, Result]]:
    """Each run of the first side with those of the others from the same seed."""
    first = {run.seed: run for run in results if run.facts["side"] == one}
    return [
        (first[run.seed], run)
        for run in results
        if run.facts["side"] in others and run.seed in first
    ]


def compare_bits(results: list[Result], *sides: str) -> list[dict[str, Any]]:
    """Compares the first of some sides with each other one, bit for bit, for each seed.

    Returns:
        ``part`` is the first epoch (from 1) after which parameters or moments differ in any bit,
        or None; ``distance`` the largest difference of a final parameter.
    """
    return [
        {
            "a": sides[0],
            "b": run.facts["side"],
            "seed": run.seed,
            "epochs": len(run.arrays["digest"]),
            "part": first_difference(first, run, "digest"),
            "distance": float(np.max(np.abs(first.arrays["final"] - run.arrays["final"]))),
        }
        for first, run in _side_pairs(results, *sides)
    ]


def compare_first_step(results: list[Result], right: str, other: str) -> list[dict[str, Any]]:
    """Finds where two sides part in their first step, which both make from one place.

    Returns:
        For each seed the rows of the table that the first batch names ``once`` and ``often``, and
        how many of them the two sides move by different distances, ``once_unlike`` and
        ``often_unlike``.
    """
    rows = []
    for first, run in _side_pairs(results, right, other):
        named = first.arrays["named_first"].copy()
        named[PADDING] = 0  # its gradient is zero, however often it is named
        moved, moved_other = first.arrays["moved_first"], run.arrays["moved_first"]
        unlike = ~(np.abs(moved - moved_other) <= _ALIKE * np.abs(moved))
        rows.append(
            {
                "seed": run.seed,
                "once": int(np.sum(named == 1)),
                "once_unlike": int(np.sum(unlike[named == 1])),
                "often": int(np.sum(named > 1)),
                "often_unlike": int(np.sum(unlike[named > 1])),
            }
        )
    return rows


def telling_words(split: TextSplit, result: Result, width: int) -> dict[str, list[str]]:
    """Finds the words that speak most for each verdict, by the weights of a trained model.

    The logits are linear in the words' rows, so a word's own part is its row times the difference
    of the dense layer's weights.
    """
    final = result.arrays["final"]
    table = final[: split.rows * width].reshape(split.rows, width)
    weight = final[table.size : table.size + len(CLASSES) * width].reshape(len(CLASSES), width)
    for_fresh = table[1:] @ (weight[1] - weight[0])
    common = np.bincount(split.train.words.ravel(), minlength=split.rows)[1:]
    known = np.flatnonzero(common >= _SNIPPETS_WITH_A_SHOWN_WORD)
    order = known[np.argsort(for_fresh[known], kind="stable")]
    ends = {"rotten": order[:_WORDS_SHOWN], "fresh": order[::-1][:_WORDS_SHOWN]}
    return {name: [split.vocabulary[place] for place in places] for name, places in ends.items()}


TRAININGS = Trainings(__name__, TextExperiment, load_data, training, sides, row, more, CLAIMS)
STUDY = Study("text", TextExperiment, TRAININGS.run, "ms_adam.lab.report.studies.text:write_page")
