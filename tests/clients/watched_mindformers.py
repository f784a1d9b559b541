"""Trains by MindFormers' Trainer as its run_mindformer.py does: python FILE --config FILE.yaml.

The network and the data are registered here, and so is a check for overflow that runs on a CPU.
"""

import argparse

import mindspore as ms
import numpy as np
from harness import OverflowOnCPU, scalar
from mindformers.core.context import build_context
from mindformers.models import PretrainedConfig, PreTrainedModel
from mindformers.tools.register import MindFormerConfig, MindFormerModuleType, MindFormerRegister
from mindformers.trainer import Trainer
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import nn

LENGTH, BATCHES, BATCH = 8, 6, 4


@MindFormerRegister.register(MindFormerModuleType.WRAPPER)
class StepOnCPU(OverflowOnCPU, MFTrainOneStepCell):
    pass


@MindFormerRegister.register(MindFormerModuleType.CONFIG)
class TinyConfig(PretrainedConfig):
    model_type = "tiny"

    def __init__(self, hidden_size=16, vocab_size=32, **keywords):
        super().__init__(**keywords)
        self.hidden_size, self.vocab_size = hidden_size, vocab_size


@MindFormerRegister.register(MindFormerModuleType.MODELS)
class TinyForCausalLM(PreTrainedModel):
    config_class, base_model_prefix = TinyConfig, "tiny"

    def __init__(self, config):
        super().__init__(config)
        width, words = config.hidden_size, config.vocab_size
        self.embedding = nn.Embedding(words, width, embedding_table="normal")
        self.norm = nn.LayerNorm((width,))
        self.hidden = nn.Dense(width, width, activation="gelu")
        self.head = nn.Dense(width, words)
        self.loss, self.words = nn.CrossEntropyLoss(), words

    def construct(self, input_ids):
        hidden = self.norm(self.embedding(input_ids[:, :-1]))
        logits = self.head(hidden + self.hidden(hidden))
        return self.loss(logits.reshape(-1, self.words), input_ids[:, 1:].reshape(-1))


class Printing(ms.Callback):
    def on_train_step_end(self, run_context):
        print("loss", scalar(run_context.original_args().net_outputs).hex())

    def on_train_end(self, run_context):
        for parameter in run_context.original_args().train_network.network.trainable_params():
            print("weight", parameter.name, parameter.asnumpy().tobytes().hex()[:256])


def main(config):
    build_context(config)
    words = np.random.default_rng(0).integers(0, 32, (BATCHES * BATCH, LENGTH + 1))
    data = ms.dataset.NumpySlicesDataset(words.astype(np.int32), ["input_ids"], shuffle=False)
    Trainer(config, train_dataset=data.batch(BATCH), callbacks=[Printing()]).train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    main(MindFormerConfig(parser.parse_args().config))
