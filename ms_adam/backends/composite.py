"""The readable specification: Adam in elementwise operators of MindSpore, any device and dtype."""

import mindspore as ms
from mindspore import Tensor, ops
from mindspore.ops import operations as P

from ms_adam.backends.operators import Batch, OperatorBackend, missing_dtype, pick
from ms_adam.sparse import rows_of, store_rows, sum_duplicates, touched, when_known

_cast, _assign, _mul, _sub = P.Cast(), P.Assign(), P.Mul(), P.Sub()


class CompositeBatch(Batch):
    """Algorithm 1 of Kingma & Ba 2015 with folded corrections, operator by operator.

    `rest1` is 1 - beta1, rounded once. In float32, beta1 and 1 - beta1 do not add up to 1;
    lerp(m, g, 1 - beta1) = m + (1 - beta1) * (g - m) needs no sum.
    """

    def __init__(self, formula, weights, state, members, dtype, *key):
        super().__init__(formula, weights, state, members, dtype, *key)
        operators = (
            P.Square(),
            P.Sqrt(),
            P.Maximum(),
            P.Add(),
            P.Sub(),
            P.Mul(),
            P.RealDiv(),
            P.Assign(),
            P.Lerp(),
        )
        if formula.on_host:  # MindSpore copies gradients there, and updates back
            operators = tuple(operator.set_device("CPU") for operator in operators)
        (
            self.square,
            self.sqrt,
            self.maximum,
            self.add,
            self.sub,
            self.mul,
            self.div,
            self.assign,
            lerp,
        ) = operators
        self.lerp = self.lerp64 if dtype == ms.float64 else lerp
        self.rest1 = Tensor(1.0 - formula.beta1, dtype)
        self.rest2 = Tensor(1.0 - formula.beta2, dtype)

    def adam(self, step_size, retained, epsilon, weight, moment1, moment2, vhat, gradient):
        w, m, v, largest = self.advance(
            step_size, retained, epsilon, weight, moment1, moment2, vhat, gradient
        )
        self.assign(moment1, m)
        self.assign(moment2, v)
        if self.amsgrad:
            self.assign(vhat, largest)
        self.store(weight, w)
        return True

    def advance(self, step_size, retained, epsilon, weight, moment1, moment2, vhat, gradient):
        """Weight, moments and vhat after the step; changes nothing."""
        m = self.lerp(moment1, gradient, self.rest1)  # m <- beta1 m + (1 - beta1) g
        v = self.lerp(moment2, self.square(gradient), self.rest2)  # v <- beta2 v + (1 - beta2) g^2
        lead, largest = m, v
        if self.nesterov:
            lead = self.lerp(m, gradient, self.rest1)  # beta1 m + (1 - beta1) g once more
        if self.amsgrad:
            largest = self.maximum(vhat, v)  # Reddi et al. 2018, Algorithm 2
        # Not Addcdiv: its CPU kernel gives NaN for divisors of 1e-8.
        update = self.div(self.mul(step_size, lead), self.add(self.sqrt(largest), epsilon))
        w = _cast(weight, self.dtype)
        if self.shrunk:
            w = _mul(w, retained)  # Loshchilov & Hutter 2019, Alg. 2
        return _cast(_sub(w, update), self.weight_dtype), m, v, largest

    def lerp64(self, start, end, weight):  # P.Lerp has no float64
        return self.add(start, self.mul(weight, self.sub(end, start)))


class LazyBatch(CompositeBatch):
    """The same for tables of which rows without a gradient stay as they are, moments and weight.

    Of a row-sparse gradient only the named rows are read and written. A dense gradient of two axes
    or more names those rows in which it is not all zero.
    """

    def __init__(self, formula, weights, state, members, *key):
        super().__init__(formula, weights, state, members, *key)
        self.places = tuple(range(len(weights))) if self.members is None else self.members
        self.step_one = when_known(self.step_any, 10)

    def construct(
        self,
        step_sizes,
        retained,
        epsilons,
        weight_decays,
        gradient_scale,
        gradients,
        gradient_dtype,
        indices,
    ):
        gradient_scale = self.scale(gradient_scale)
        weight_decay = _cast(weight_decays[self.group], self.dtype)
        step_size = _cast(step_sizes[self.group], self.dtype)
        retained = _cast(retained[self.group], self.dtype)
        epsilon = _cast(epsilons[self.group], self.dtype)
        gradients = self.map_(ops.partial(pick, gradients), self.places)
        if len(indices) == 0:
            step = ops.partial(
                self.step_whole, gradient_scale, weight_decay, step_size, retained, epsilon
            )
            self.map_(step, self.weights, self.moment1, self.moment2, gradients)
        else:
            indices = self.map_(ops.partial(pick, indices), self.places)
            step = ops.partial(
                self.step_one, gradient_scale, weight_decay, step_size, retained, epsilon
            )
            self.map_(step, self.weights, self.moment1, self.moment2, gradients, indices)
        return True

    def step_any(
        self,
        gradient_scale,
        weight_decay,
        step_size,
        retained,
        epsilon,
        weight,
        moment1,
        moment2,
        values,
        indices,
    ):
        """A step of a weight with a gradient of either kind."""
        if indices.ndim == 0:
            return self.step_whole(
                gradient_scale,
                weight_decay,
                step_size,
                retained,
                epsilon,
                weight,
                moment1,
                moment2,
                values,
            )
        return self.step_rows(
            gradient_scale,
            weight_decay,
            step_size,
            retained,
            epsilon,
            weight,
            moment1,
            moment2,
            values,
            indices,
        )

    def step_whole(
        self,
        gradient_scale,
        weight_decay,
        step_size,
        retained,
        epsilon,
        weight,
        moment1,
        moment2,
        gradient,
    ):
        """A step of a weight with a dense gradient."""
        prepared = self.prepare(gradient_scale, weight_decay, weight, gradient)
        w, m, v, _ = self.advance(
            step_size, retained, epsilon, weight, moment1, moment2, moment2, prepared
        )
        if gradient.ndim > 1:
            if gradient.size > 0:
                row = touched(_cast(gradient, self.dtype))
                m, v = ops.where(row, m, moment1), ops.where(row, v, moment2)
                # in the dtype of the moments, since there is no selection of bfloat16
                w = _cast(
                    ops.where(row, _cast(w, self.dtype), _cast(weight, self.dtype)),
                    self.weight_dtype,
                )
        _assign(moment1, m)
        _assign(moment2, v)
        self.store(weight, w)
        return True

    def step_rows(
        self,
        gradient_scale,
        weight_decay,
        step_size,
        retained,
        epsilon,
        weight,
        moment1,
        moment2,
        values,
        indices,
    ):
        """A step of the named rows of a weight.

        A row that is named twice is worked out twice, from its whole gradient, and written with
        equal values: what shapes the rows have is known without looking at the indices.
        """
        if values.size == 0:
            return True
        totals, place = sum_duplicates(values, indices, self.dtype)
        w, m, v = rows_of(weight, indices), rows_of(moment1, indices), rows_of(moment2, indices)
        gradient = self.prepare(gradient_scale, weight_decay, w, rows_of(totals, place))
        w, m, v, _ = self.advance(step_size, retained, epsilon, w, m, v, v, gradient)
        return (
            store_rows(_assign, moment1, indices, m),
            store_rows(_assign, moment2, indices, v),
            store_rows(self.store, weight, indices, w),
        )


class Composite(OperatorBackend):
    """Runs wherever MindSpore has the dtype.

    Arguments, inputs and outputs are those of `OperatorBackend`.
    """

    @classmethod
    def batch_for(cls, formula):
        return LazyBatch if formula.lazy else CompositeBatch

    @classmethod
    def obstacle(cls, formula, weights, device_target):
        return missing_dtype(weights, device_target)
