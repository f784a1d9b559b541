"""The training loop. It runs in the mode that its process is in (see the worker)."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from typing import Callable, Optional

import mindspore
import numpy as np
from mindspore import nn

from ms_adam.lab.problems.images import Images, Split, batches
from ms_adam.lab.problems.networks import MultiLayerPerceptron
from ms_adam.lab.run.config import AdamSettings
from ms_adam.lab.studies.images.config import Experiment
from ms_adam.lab.studies.images.shadow import Shadow, reference_adam, rounding_bound
from ms_adam.lab.train import TrainStep, fused_loss

Progress = Callable[[int], None]  # is told how many steps of the run are done


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training left behind.

    Attributes:
        arrays: What is kept as .npz. Per step: ``loss`` (before the update), ``error_algorithm1``
            and ``error_epsilon_hat`` (distance to the two shadows after the update),
            ``gradient_digest`` and ``parameter_digest`` (uint64; equal for equal bits). Per epoch:
            ``train_accuracy`` and ``test_accuracy``. Once: ``initial`` and ``final``, all
            parameters one after the other. The reference run has no errors.
        facts: What is kept as JSON.
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, object]


def train(
    experiment: Experiment, split: Split, optimizer_name: str, seed: int, progress: Progress
) -> Run:
    """Trains once, in the mode that the process is in.

    Args:
        experiment: What to train, and how.
        split: The images.
        optimizer_name: One of ``compare.optimizers``.
        seed: Decides the first weights and the order of the batches.
        progress: Is called after each step.

    Returns:
        The run, with its distance to both shadows.
    """
    model = _build_model(experiment, split, seed)
    parameters = list(model.trainable_params())
    optimizer = _build_optimizer(optimizer_name, parameters, experiment.adam)
    step = TrainStep(model, optimizer, fused_loss(), with_gradients=True)
    initial = _flat(parameters)
    shadows = {
        "error_algorithm1": Shadow(experiment.adam, "outside", initial),
        "error_epsilon_hat": Shadow(experiment.adam, "hat", initial),
    }

    def update(images, labels) -> tuple[float, np.ndarray, np.ndarray]:
        loss, gradients = step(images, labels)
        return float(loss.asnumpy()), _flat(gradients), _flat(parameters)

    run = _loop(experiment, split, model, seed, initial, update, shadows, progress)
    bound = rounding_bound(
        experiment.adam,
        experiment.steps,
        largest=max(np.max(np.abs(initial)), np.max(np.abs(run.arrays["final"]))),
        way=np.max(np.abs(run.arrays["final"] - initial)),
    )
    backend = getattr(optimizer, "backend", None)
    return Run(run.arrays, {**run.facts, "rounding_bound": float(bound), "backend": backend})


def train_reference(experiment: Experiment, split: Split, seed: int, progress: Progress) -> Run:
    """Trains once with NumPy's float64 Adam (Algorithm 1).

    The gradients are MindSpore's, at the float32 rounding of the float64 parameters; parameters
    and moments are never rounded. The arguments are those of `train`.
    """
    model = _build_model(experiment, split, seed)
    parameters = list(model.trainable_params())
    gradients_of = TrainStep(
        model, None, fused_loss(), parameters=mindspore.ParameterTuple(parameters)
    )
    adam = reference_adam(experiment.adam, "outside")
    initial = _flat(parameters).astype(np.float64)
    position, state = initial, adam.init(initial)

    def update(images, labels) -> tuple[float, np.ndarray, np.ndarray]:
        nonlocal position, state
        loss, gradients = gradients_of(images, labels)
        gradient = _flat(gradients)
        position, state = adam.step(position, gradient.astype(np.float64), state)
        _assign(parameters, position)
        return float(loss.asnumpy()), gradient, position

    return _loop(experiment, split, model, seed, initial, update, {}, progress)


def _loop(
    experiment: Experiment,
    split: Split,
    model: nn.Cell,
    seed: int,
    initial: np.ndarray,
    update: Callable,
    shadows: dict[str, Shadow],
    progress: Progress,
) -> Run:
    training = experiment.training
    per_step: dict[str, list] = {
        name: [] for name in ("loss", "gradient_digest", "parameter_digest", *shadows)
    }
    per_epoch: dict[str, list] = {"train_accuracy": [], "test_accuracy": []}
    position: Optional[np.ndarray] = None
    started = time.perf_counter()
    feed = batches(split.train, training.batch_size, training.epochs, seed)
    for done, (images, labels) in enumerate(feed, start=1):
        loss, gradient, position = update(mindspore.Tensor(images), mindspore.Tensor(labels))
        per_step["loss"].append(loss)
        per_step["gradient_digest"].append(_digest(gradient))
        per_step["parameter_digest"].append(_digest(position))
        for name, shadow in shadows.items():
            per_step[name].append(shadow.follow(gradient, position))
        if done % experiment.steps_per_epoch == 0:
            per_epoch["train_accuracy"].append(_accuracy(model, split.train))
            per_epoch["test_accuracy"].append(_accuracy(model, split.test))
        progress(done)
    arrays = {name: np.array(values) for name, values in {**per_step, **per_epoch}.items()}
    arrays.update(initial=initial, final=position)
    return Run(arrays, {"seconds": time.perf_counter() - started, "backend": None})


def _build_model(experiment: Experiment, split: Split, seed: int) -> nn.Cell:
    sizes = [split.train.pixels.shape[1], *experiment.model.hidden, split.classes]
    return MultiLayerPerceptron(sizes, seed)


def _build_optimizer(name: str, parameters, settings: AdamSettings) -> nn.Optimizer:
    if name == "ms_adam.Adam":
        from ms_adam import Adam
    else:
        Adam = nn.Adam
    return Adam(
        parameters,
        learning_rate=settings.learning_rate,
        beta1=settings.beta1,
        beta2=settings.beta2,
        eps=settings.eps,
    )


def _accuracy(model: nn.Cell, images: Images) -> float:
    logits = model(mindspore.Tensor(images.inputs)).asnumpy()
    return float(np.mean(np.argmax(logits, axis=1) == images.labels))


def _flat(tensors) -> np.ndarray:
    # Copies: an array from asnumpy() may share its memory with the tensor, which moves on.
    return np.concatenate([tensor.asnumpy().ravel() for tensor in tensors])


def _assign(parameters, position: np.ndarray) -> None:
    start = 0
    for parameter in parameters:
        part = position[start : start + parameter.size].reshape(parameter.shape)
        parameter.set_data(mindspore.Tensor(part.astype(np.float32)))
        start += parameter.size


def _digest(array: np.ndarray) -> np.uint64:
    digest = hashlib.blake2b(array.tobytes(), digest_size=8).digest()
    return np.frombuffer(digest, dtype=np.uint64)[0]
