"""Transfer learning: a frozen backbone, a new head, and groups with their own learning rates."""

import mindspore as ms
from harness import Losses, Run, batches, images, values
from mindspore import nn


class Backbone(nn.Cell):
    def __init__(self):
        super().__init__()
        self.frozen = nn.SequentialCell(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.tuned = nn.SequentialCell(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.SequentialCell(nn.Flatten(), nn.Dense(8 * 4 * 4, 4))

    def construct(self, pixels):
        return self.head(self.tuned(self.frozen(pixels)))


def train(adam):
    network = Backbone()
    pretrained = {
        name: ms.Parameter(parameter * 0.5)
        for name, parameter in Backbone().parameters_dict().items()
        if name.startswith(("frozen", "tuned")) and "moving" not in name
    }
    ms.load_param_into_net(network, pretrained)
    for parameter in network.frozen.get_parameters():
        parameter.requires_grad = False
    start, losses = values(network.get_parameters()), Losses()
    groups = [
        {"params": network.tuned.trainable_params(), "lr": 1e-3, "weight_decay": 0.1},
        {"params": network.head.trainable_params()},
        {"order_params": network.trainable_params()},
    ]
    optimizer = adam(groups, learning_rate=1e-2)
    model = ms.Model(network, nn.CrossEntropyLoss(), optimizer)
    model.train(1, batches(*images()), callbacks=[losses], dataset_sink_mode=False)
    return Run(start, losses.values, values(network.get_parameters()))
