"""Trains a network of MindCV as its train.py does: python watched_mindcv.py OPTIMIZER."""

import sys

import mindspore as ms
import numpy as np
from mindcv.loss import create_loss
from mindcv.models.vit import VisionTransformer
from mindcv.optim import create_optimizer
from mindcv.utils.trainer_factory import create_trainer

ms.set_seed(1)
ms.set_context(mode=ms.GRAPH_MODE)
network = VisionTransformer(
    image_size=16, patch_size=8, in_channels=3, embed_dim=16, depth=1, num_heads=2, num_classes=4
)
network.pretrained_cfg = {"classifier": "head"}  # MindCV distinguishes layers by it
optimizer = create_optimizer(
    network.trainable_params(),
    sys.argv[1],
    lr=[1e-3 / (1 + step) for step in range(6)],
    weight_decay=0.05,
    loss_scale=1024.0,
)
trainer = create_trainer(
    network,
    create_loss("CE"),
    optimizer,
    metrics={"acc"},
    amp_level="O0",
    amp_cast_list=None,
    loss_scale=1024.0,
    loss_scale_type="fixed",
)


class Printing(ms.Callback):
    def on_train_step_end(self, run_context):
        loss = run_context.original_args().net_outputs
        print("loss", (loss[0] if isinstance(loss, tuple) else loss).asnumpy())


rng = np.random.default_rng(0)
labels = rng.integers(0, 4, 24).astype(np.int32)
images = rng.standard_normal((24, 3, 16, 16)).astype(np.float32) + labels[:, None, None, None]
data = ms.dataset.NumpySlicesDataset((images.astype(np.float32), labels), shuffle=False).batch(4)
trainer.train(1, data, callbacks=[Printing()], dataset_sink_mode=False)
for parameter in network.trainable_params():
    print("weight", parameter.name, parameter.asnumpy().tobytes().hex()[:256])
