"""Calls that fail: python crashing.py. All tracebacks but the last are printed as the last one is.

The last error ends the script.
"""

import sys
import threading

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

ms.set_context(mode=ms.PYNATIVE_MODE)


def hook(*error):
    print("the user's own hook", file=sys.stderr)
    sys.__excepthook__(*error)


sys.excepthook = hook


class Failing(nn.Optimizer):
    def construct(self, gradients):
        raise ValueError("the user's own error")


class Calling(nn.Optimizer):
    def __call__(self):
        pass


class Network(nn.Cell):
    def construct(self, x):
        return x @ x


def weight():
    return Parameter(Tensor(np.zeros(2, np.float32)), name="w")


parameter = weight()
failing, adam = Failing(0.1, [parameter]), nn.Adam([parameter])
gradients = (Tensor(np.ones(2, np.float32)),)


def in_construct():
    failing(gradients)


def in_the_optimizer():
    adam(3)


def in_new_data():
    parameter.set_data()


def in_the_arguments():
    Calling(0.1, [weight()])(gradients)


def in_making():
    nn.Adam([weight()], learning_rate="fast")


def in_a_graph():
    ms.set_context(mode=ms.GRAPH_MODE)
    Network()(Tensor(np.ones((2, 3), np.float32)))


@ms.jit
def compiled(x):
    return x @ x


def in_a_compiled_function():
    compiled(Tensor(np.ones((2, 3), np.float32)))


def because_of_another():
    try:
        failing(gradients)
    except ValueError as error:
        raise RuntimeError("the training failed") from error


for call in (
    in_construct,
    in_the_optimizer,
    in_new_data,
    in_the_arguments,
    in_making,
    in_a_compiled_function,
    in_a_graph,
):
    try:
        call()
    except Exception:
        sys.excepthook(*sys.exc_info())
ms.set_context(mode=ms.PYNATIVE_MODE)
thread = threading.Thread(target=in_construct, name="training")
thread.start()
thread.join()
because_of_another()
