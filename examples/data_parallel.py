"""Train data-parallel on two workers, each with half of the optimizer's state.

    msrun --worker_num=2 --local_worker_num=2 --join=True examples/data_parallel.py

Each worker writes its output to a file of its own, worker_0.log and worker_1.log.

Needs MindSpore 2.7 or later. docs/scaling.md says what sharding costs and saves.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, nn

import ms_adam

communication.init()
rank, ranks = communication.get_rank(), communication.get_group_size()
ms.set_auto_parallel_context(parallel_mode="data_parallel", gradients_mean=True, device_num=ranks)
ms.set_seed(1)  # all ranks start with the same weights

network, loss = nn.Dense(8, 3), nn.CrossEntropyLoss()
optimizer = ms_adam.AdamW(network.trainable_params(), learning_rate=1e-2, shard_state=True)
average = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=ranks)
step = ms.value_and_grad(lambda x, y: loss(network(x), y), None, optimizer.parameters)

points = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
labels = points[:, :3].argmax(axis=1).astype(np.int32)
mine = slice(rank, None, ranks)  # each rank takes its share of the batch
x, y = Tensor(points[mine]), Tensor(labels[mine])
for _ in range(20):
    value, gradients = step(x, y)
    optimizer(average(gradients))

state = sum(moment.size for moment in optimizer.moment1)
weights = sum(parameter.size for parameter in optimizer.parameters)
total = sum(float(parameter.asnumpy().sum()) for parameter in optimizer.parameters)
print(f"rank {rank} of {ranks}: {state} of {weights} first moments, sum of weights {total:.9f}")
