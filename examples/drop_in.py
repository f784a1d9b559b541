"""Replace nn.Adam: the class name is the only line that changes.

    python examples/drop_in.py

Trains a classifier with `Model.train`, in graph mode. `ms_adam.Adam` takes the arguments of
`nn.Adam`.
"""

import mindspore as ms
import numpy as np
from mindspore import nn, train
from mindspore.dataset import NumpySlicesDataset

import ms_adam

ms.set_seed(1)
ms.set_context(mode=ms.GRAPH_MODE)

# 256 points in 8 dimensions; the class is the largest of the first three coordinates.
points = np.random.default_rng(0).standard_normal((256, 8)).astype(np.float32)
labels = points[:, :3].argmax(axis=1).astype(np.int32)
data = NumpySlicesDataset((points, labels), ["point", "label"], shuffle=False).batch(32)

network = nn.SequentialCell(nn.Dense(8, 32), nn.ReLU(), nn.Dense(32, 3))
# was: optimizer = nn.Adam(network.trainable_params(), learning_rate=1e-2)
optimizer = ms_adam.Adam(network.trainable_params(), learning_rate=1e-2)

model = train.Model(network, nn.CrossEntropyLoss(), optimizer, metrics={"accuracy"})
model.train(20, data, dataset_sink_mode=False)

accuracy = model.eval(data, dataset_sink_mode=False)["accuracy"]
print(
    f"{optimizer.backend} backend, accuracy {accuracy:.2f} after {int(optimizer.global_step)} steps"
)
