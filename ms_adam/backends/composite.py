"""The readable specification: Adam in elementwise operators of MindSpore, any device and dtype."""

import mindspore as ms
from mindspore import Tensor
from mindspore.ops import operations as P

from ms_adam.backends.operators import Batch, OperatorBackend

_add, _sub, _mul, _div = P.Add(), P.Sub(), P.Mul(), P.RealDiv()
_square, _sqrt, _maximum = P.Square(), P.Sqrt(), P.Maximum()
_cast, _assign, _assign_sub = P.Cast(), P.Assign(), P.AssignSub()


class CompositeBatch(Batch):
    """Algorithm 1 of Kingma & Ba 2015 with folded corrections, operator by operator.

    `rest1` is 1 - beta1, rounded once. In float32, beta1 and 1 - beta1 do not add up to 1;
    lerp(m, g, 1 - beta1) = m + (1 - beta1) * (g - m) needs no sum.
    """

    def __init__(self, formula, weights, state, members, dtype, *key):
        super().__init__(formula, weights, state, members, dtype, *key)
        self.lerp = _lerp64 if dtype == ms.float64 else P.Lerp()
        self.rest1 = Tensor(1.0 - formula.beta1, dtype)
        self.rest2 = Tensor(1.0 - formula.beta2, dtype)

    def adam(self, step_size, retained, epsilon, weight, moment1, moment2, vhat, gradient):
        m = self.lerp(moment1, gradient, self.rest1)           # m <- beta1 m + (1 - beta1) g
        v = self.lerp(moment2, _square(gradient), self.rest2)  # v <- beta2 v + (1 - beta2) g^2
        _assign(moment1, m)
        _assign(moment2, v)
        if self.nesterov:
            m = self.lerp(m, gradient, self.rest1)             # beta1 m + (1 - beta1) g once more
        if self.amsgrad:
            v = _maximum(vhat, v)                              # Reddi et al. 2018, Algorithm 2
            _assign(vhat, v)
        # Not Addcdiv: its CPU kernel gives NaN for divisors of 1e-8.
        update = _div(_mul(step_size, m), _add(_sqrt(v), epsilon))
        if self.plain:
            _assign_sub(weight, update)
            return True
        w = _cast(weight, self.dtype)
        if self.shrunk:
            w = _mul(w, retained)                              # Loshchilov & Hutter 2019, Alg. 2
        self.store(weight, _cast(_sub(w, update), self.weight_dtype))
        return True


class Composite(OperatorBackend):
    """Runs everywhere; arguments, inputs and outputs are those of `OperatorBackend`."""

    batch = CompositeBatch

    @classmethod
    def obstacle(cls, formula, weights, device_target):
        return None


def _lerp64(start, end, weight):  # P.Lerp has no float64
    return _add(start, _mul(weight, _sub(end, start)))
