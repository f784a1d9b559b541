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


class CallingAnother(nn.Optimizer):
    def construct(self, gradients):
        calling(gradients)


class Network(nn.Cell):
    def construct(self, x):
        return x @ x


def weight():
    return Parameter(Tensor(np.zeros(2, np.float32)), name="w")


parameter = weight()
failing, adam = Failing(0.1, [parameter]), nn.Adam([parameter])
calling = Calling(0.1, [weight()])
gradients = (Tensor(np.ones(2, np.float32)),)


def because_of_another():
    try:
        failing(gradients)
    except ValueError as error:
        raise RuntimeError("the training failed") from error


@ms.jit
def compiled(x):
    return x @ x


def in_a_graph(x):
    ms.set_context(mode=ms.GRAPH_MODE)
    Network()(x)


matrix = Tensor(np.ones((2, 3), np.float32))
for call, *arguments in (
    (failing, gradients),
    (adam, 3),
    (parameter.set_data,),
    (calling, gradients),
    (CallingAnother(0.1, [weight()]), gradients),
    (nn.Adam, [weight()], "fast"),
    (compiled, matrix),
    (in_a_graph, matrix),
):
    try:
        call(*arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())
ms.set_context(mode=ms.PYNATIVE_MODE)
thread = threading.Thread(target=failing, args=(gradients,), name="training")
thread.start()
thread.join()
because_of_another()
