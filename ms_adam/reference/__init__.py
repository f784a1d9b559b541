"""Optimizers in NumPy float64, each written to be read beside its source. No MindSpore here.

Every method is a frozen dataclass of its numbers with two pure functions, for one array of any
shape:

    state = method.init(parameter)
    parameter, state = method.step(parameter, gradient, state)

Arguments are not changed; results are float64. A schedule passes `learning_rate`, and for Adam
`weight_decay`, to `step` itself.

>>> import numpy as np
>>> from ms_adam import reference
>>> adam = reference.Adam(learning_rate=0.1)
>>> x = np.array([1.0, -2.0])
>>> x, state = adam.step(x, 2 * x, adam.init(x))
>>> x.round(6)
array([ 0.9, -1.9])
"""

from ms_adam.reference.adagrad import AdaGrad, AdaGradState
from ms_adam.reference.adam import Adam, AdamState
from ms_adam.reference.adamax import AdaMax
from ms_adam.reference.cann import CannAdamW
from ms_adam.reference.clip import clip_by_global_norm
from ms_adam.reference.method import Method
from ms_adam.reference.momentum import Momentum, MomentumState
from ms_adam.reference.nesterov import Nesterov, NesterovState
from ms_adam.reference.rmsprop import RMSProp, RMSPropState
from ms_adam.reference.sgd import SGD, SGDState
from ms_adam.reference.tail import Average, adjust_loss_scale, all_finite, mean_of_calls

__all__ = [
    "AdaGrad",
    "AdaGradState",
    "AdaMax",
    "Adam",
    "AdamState",
    "Average",
    "CannAdamW",
    "Method",
    "Momentum",
    "MomentumState",
    "Nesterov",
    "NesterovState",
    "RMSProp",
    "RMSPropState",
    "SGD",
    "SGDState",
    "adjust_loss_scale",
    "all_finite",
    "clip_by_global_norm",
    "mean_of_calls",
]
