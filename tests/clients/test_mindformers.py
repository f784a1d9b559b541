"""ms_adam inside MindFormers 2.1.0: its registry, a YAML config, its training step, resuming.

MindFormers writes a log where it is imported, LOG_MF_PATH says where to.
"""

import importlib
import os
import tempfile
from functools import cache, partial
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from harness import (
    APART,
    BOUND,
    LOSS_BOUND,
    STEPS,
    OverflowOnCPU,
    Run,
    WithoutBiasCorrection,
    distance,
    documented,
    loss_distance,
    loss_scales,
    module,
    scalar,
    shown,
    train,
    values,
)
from mindspore import nn, ops

import ms_adam

os.environ["LOG_MF_PATH"] = tempfile.mkdtemp()

from mindformers.core.optim import build_optim
from mindformers.models.llama import LlamaConfig, LlamaForCausalLM
from mindformers.tools.register import MindFormerConfig, MindFormerModuleType, MindFormerRegister
from mindformers.trainer.optimizer_grouped_parameters import get_optimizer_grouped_parameters
from mindformers.trainer.utils import load_ckpt
from mindformers.wrapper import MFTrainOneStepCell
from mindformers.wrapper.build_wrapper import build_wrapper

VOCABULARY, LENGTH, BATCH, WIDTH = 32, 8, 4, 16
OVERFLOW = 5  # the batch with a gradient that is not finite
TAIL_STEPS = 20  # without it, where the tail of a step is replaced


class StepOnCPU(OverflowOnCPU, MFTrainOneStepCell):
    """MindFormers' step, with a check for overflow that runs on a CPU."""


class LanguageModel(nn.Cell):
    """Predicts the next word from a word and a factor of the loss."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, embedding_table="normal")
        self.norm = nn.LayerNorm((WIDTH,))
        self.hidden = nn.Dense(WIDTH, WIDTH, activation="gelu")
        self.head = nn.Dense(WIDTH, VOCABULARY)
        self.loss = nn.CrossEntropyLoss()

    def construct(self, words, factor):
        hidden = self.norm(self.embedding(words[:, :-1]))
        logits = self.head(hidden + self.hidden(hidden))
        labels = words[:, 1:].reshape(-1)
        return factor * self.loss(logits.reshape(-1, VOCABULARY), labels)


def text():
    """Returns words, each followed by one of two, and factors of the loss, one not finite."""
    random = np.random.default_rng(0)
    words = [random.integers(0, VOCABULARY, (BATCH, 1))]
    for _ in range(LENGTH):
        words.append((words[-1] * 3 + random.integers(0, 2, (BATCH, 1))) % VOCABULARY)
    return np.concatenate(words, axis=1).astype(np.int32)


exec(shown("MindFormers", 0))
MindFormerRegister.register_cls(WithoutBiasCorrection, MindFormerModuleType.OPTIMIZER)
MindFormerRegister.register_cls(StepOnCPU, MindFormerModuleType.WRAPPER)


def parts(path):
    """Returns the config in docs/clients.md, a network and the groups of its parameters."""
    path = path / "config.yaml"
    path.write_text(shown("MindFormers", 1))
    config = MindFormerConfig(str(path))
    assert (config.optimizer.type, config.runner_wrapper.type) == ("MsAdamW", "MFTrainOneStepCell")
    network = LanguageModel()
    return config, network, get_optimizer_grouped_parameters(network, weight_decay=0.1)


def configured(path, optimizer, step="StepOnCPU"):
    """Returns network, optimizer and training step for the config in docs/clients.md."""
    config, network, groups = parts(path)
    config.optimizer.type, config.runner_wrapper.type = optimizer, step
    made = build_optim(config.optimizer, default_args={"params": groups})
    step = build_wrapper(
        config.runner_wrapper, default_args={"network": network, "optimizer": made}
    )
    return network, made, step.set_train()


def steps(step, first, last):
    """Trains on some batches; returns the losses of those without overflow."""
    random = np.random.default_rng(1)
    factors = random.uniform(0.5, 1.5, TAIL_STEPS + 1).astype(np.float32)
    factors[OVERFLOW] = np.inf
    losses = []
    for batch in range(first, last):
        words = (text() + batch) % VOCABULARY
        outputs = step(ms.Tensor(words), ms.Tensor(factors[batch]))
        assert bool(outputs[1]) == (batch == OVERFLOW)
        if batch != OVERFLOW:
            losses.append(scalar(outputs))
    return losses


def run(make, path, resume=None):
    """Trains; after the seventh batch `resume` makes new objects from a checkpoint."""
    network, optimizer, step = make(path)
    start = values(network.trainable_params())
    losses = steps(step, 0, 7 if resume else STEPS + 1)
    if resume:
        written = path / "7.ckpt"
        ms.save_checkpoint(step, str(written))  # what MindFormers' CheckpointMonitor calls
        network, optimizer, step = resume(path)
        if isinstance(optimizer, ms_adam.AdamW):
            ms_adam.convert_checkpoint(str(written), str(path / "converted.ckpt"), optimizer)
            written = path / "converted.ckpt"
        load_ckpt(
            MindFormerConfig(
                checkpoint={"load_path": str(written)}, runner_config={}, model={"model_config": {}}
            ),
            network,
            optimizer,
        )
        losses += steps(step, 7, STEPS + 1)
    return Run(start, losses, values(network.trainable_params()))


def with_config(optimizer):
    return partial(configured, optimizer=optimizer)


def tail_of_optimizer(path, **options):
    """Returns network, optimizer and training step as docs/clients.md puts the tail in."""
    config, network, groups = parts(path)
    names = {
        **vars(module(shown("MindFormers", 2))),
        "network": network,
        "groups": groups,
        "build_optim": lambda config, default_args: build_optim(
            config, default_args={**default_args, **options}
        ),
        "config": config,
    }
    exec(shown("MindFormers", 3), names)
    return network, names["optimizer"], names["step"].set_train()


def run_tail(make, path):
    """Trains with MindFormers' tail or with ours; the scale moves as MindSpore's scaler does."""
    network, _, step = make(path)
    start = values(network.trainable_params())
    losses = []
    overflows = [batch == OVERFLOW for batch in range(TAIL_STEPS + 1)]
    for batch, scale in enumerate(loss_scales(overflows)):
        losses += steps(step, batch, batch + 1)
        assert step.scale_sense.asnumpy() == scale
    return Run(start, losses, values(network.trainable_params()))


@cache
def run_of_mindformers(mode):
    return train(partial(run_tail, path=Path.cwd()), with_config("AdamW"))


def test_from_a_config(mode, tmp_path):
    """With MindFormers' tail; another formula is told apart."""
    run, expected = partial(run_tail, path=tmp_path), run_of_mindformers(mode)
    assert distance(train(run, with_config("MsAdamW")), expected) < BOUND
    if mode == "graph":
        found = train(run, with_config("WithoutBiasCorrection"))
        assert distance(found, expected) > APART * BOUND


def test_tail_in_the_optimizer(mode, tmp_path):
    """With ours; another one, which does not clip, is told apart."""
    run, expected = partial(run_tail, path=tmp_path), run_of_mindformers(mode)
    found = train(run, tail_of_optimizer)
    assert distance(found, expected) < BOUND
    assert loss_distance(found, expected) < LOSS_BOUND
    if mode == "graph":
        found = train(run, partial(tail_of_optimizer, max_grad_norm=1e6))
        assert distance(found, expected) > APART * BOUND


def test_resumed(mode, tmp_path):
    """A checkpoint and new objects change nothing."""
    once = train(partial(run, path=tmp_path), with_config("MsAdamW"))
    again = train(
        partial(run, path=tmp_path, resume=with_config("MsAdamW")), with_config("MsAdamW")
    )
    assert once.losses == again.losses
    for a, b in zip(once.end, again.end):
        np.testing.assert_array_equal(a, b)


def test_converted_checkpoint(tmp_path):
    """Trains half with MindFormers' AdamW, and half with ours from its checkpoint."""
    ms.set_context(mode=ms.GRAPH_MODE)
    theirs = train(partial(run, path=tmp_path), with_config("AdamW"))
    both = train(partial(run, path=tmp_path, resume=with_config("MsAdamW")), with_config("AdamW"))
    assert distance(both, theirs) < BOUND


@pytest.mark.parametrize("face", [ms_adam, ms_adam.mint], ids=["nn", "mint"])
def test_the_calls_of_the_pynative_trainer(face):
    """It cannot be imported, see below: these are its calls, `optimizer(gradients)` the last."""
    ms.set_context(mode=ms.PYNATIVE_MODE)

    def run(make):
        network = LanguageModel()
        optimizer = make(get_optimizer_grouped_parameters(network, weight_decay=0.1))
        start, losses = values(network.trainable_params()), []
        gradient = ms.value_and_grad(network, None, optimizer.parameters)
        for batch in range(STEPS):
            words = ms.Tensor((text() + batch) % VOCABULARY)
            loss, gradients = gradient(words, ms.Tensor(1.0, ms.float32))
            optimizer(ops.clip_by_global_norm(gradients, 0.5))
            losses.append(scalar(loss))
        return Run(start, losses, values(network.trainable_params()))

    options = {"type": "AdamW", "learning_rate": 1e-2}
    theirs = train(run, lambda groups: build_optim({**options, "params": groups}))
    found = train(run, lambda groups: face.AdamW(groups, lr=1e-2))
    assert distance(found, theirs) < BOUND
    other = train(run, lambda groups: face.AdamW(groups, lr=1e-2, bias_correction=False))
    assert distance(other, theirs) > APART * BOUND


# --- what does not run on a CPU ------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["AdamW", "MsAdamW"])
def test_step_of_mindformers_does_not_run(optimizer, tmp_path):
    ms.set_context(mode=ms.GRAPH_MODE)
    _, _, step = configured(tmp_path, optimizer, step="MFTrainOneStepCell")
    error = documented("MindFormers", "MFTrainOneStepCell as it is")
    with pytest.raises(RuntimeError, match=error):
        steps(step, 0, 1)


def test_fused_adamw_does_not_run():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network = LanguageModel()
    fused = build_optim({"type": "AdamW", "use_fused": True, "params": network.trainable_params()})
    with pytest.raises(RuntimeError, match=documented("MindFormers", "AdamW with use_fused")):
        fused(tuple(ops.ones_like(parameter) for parameter in fused.parameters))
        fused.parameters[0].asnumpy()


def test_llama_does_not_run():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network = LlamaForCausalLM(
        LlamaConfig(
            batch_size=1,
            seq_length=8,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            vocab_size=32,
            multiple_of=8,
        )
    )
    with pytest.raises(RuntimeError, match=documented("MindFormers", "LlamaForCausalLM")):
        network(ms.Tensor(np.zeros((1, 8)), ms.int32)).asnumpy()


def test_pynative_trainer_does_not_import():
    error = documented("MindFormers", "its PyNative trainer")
    with pytest.raises(ModuleNotFoundError, match=error):
        importlib.import_module("mindformers.pynative.trainer.trainer")
