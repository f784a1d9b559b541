"""An LSTM that classifies sequences, in nn.TrainOneStepCell."""

import mindspore as ms
import numpy as np
from harness import STEPS, Run, scalar, values
from mindspore import nn

WORDS, LENGTH, BATCH = 20, 6, 8


class Classifier(nn.Cell):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8, embedding_table="normal")
        self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.head = nn.Dense(16, 1)

    def construct(self, words):
        states, _ = self.lstm(self.embedding(words))
        return self.head(states.mean(axis=1)).reshape(-1)


def train(adam):
    network = Classifier()
    optimizer = adam(network.trainable_params(), learning_rate=1e-2)
    step = nn.TrainOneStepCell(nn.WithLossCell(network, nn.BCEWithLogitsLoss()), optimizer)
    step.set_train()
    start, losses = values(network.trainable_params()), []
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        words = random.integers(0, WORDS, (BATCH, LENGTH))
        labels = (words.sum(axis=1) > WORDS * LENGTH // 2).astype(np.float32)
        losses.append(scalar(step(ms.Tensor(words, ms.int32), ms.Tensor(labels))))
    return Run(start, losses, values(network.trainable_params()))
