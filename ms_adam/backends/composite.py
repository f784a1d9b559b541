"""The readable specification: Adam in elementwise operators of MindSpore, any device and dtype."""

import mindspore as ms
from mindspore import ParameterTuple, Tensor, ops
from mindspore.ops import operations as P

from ms_adam.backends.capabilities import Capabilities
from ms_adam.backends.narrow import Draw, Halves, counters
from ms_adam.backends.operators import Batch, OperatorBackend, pick, store_operator, subtract_means
from ms_adam.backends.rows import Row
from ms_adam.compat import bfloat16
from ms_adam.options import Execution, Formula
from ms_adam.sparse import rows_of, store_rows, sum_duplicates, touched, when_known

_cast, _assign, _mul, _sub = P.Cast(), P.Assign(), P.Mul(), P.Sub()
_select, _scatter_into, _equal = P.Select(), P.TensorScatterUpdate(), P.Equal()
_OPERATORS = {
    "square": P.Square,
    "sqrt": P.Sqrt,
    "maximum": P.Maximum,
    "add": P.Add,
    "sub": P.Sub,
    "mul": P.Mul,
    "div": P.RealDiv,
    "assign": P.Assign,
    "lerp": P.Lerp,
    "abs": P.Abs,
    "select": P.Select,
}


class CompositeBatch(Batch):
    """Algorithm 1 of Kingma & Ba 2015 with folded corrections, operator by operator.

    `one_minus_beta1` is rounded once. In float32, beta1 and 1 - beta1 do not add up to 1;
    lerp(m, g, 1 - beta1) = m + (1 - beta1) * (g - m) needs no sum. AdaMax is Algorithm 2.
    """

    def __init__(self, formula, execution, *rest):
        super().__init__(formula, execution, *rest)
        for name, operator in _OPERATORS.items():
            operator = operator()
            if execution.on_host:  # MindSpore copies gradients there, and updates back
                operator = operator.set_device("CPU")
            setattr(self, name, operator)
        if self.dtype == ms.float64:  # P.Lerp has no float64
            self.lerp = self.lerp_in_three
        self.one_minus_beta1 = Tensor(1.0 - formula.beta1, self.dtype)
        self.one_minus_beta2 = Tensor(1.0 - formula.beta2, self.dtype)
        self.infinity_norm = formula.infinity_norm

    def update(self, scalars, weight, moment1, moment2, vhat, gradient):
        w, m, v, largest = self.advance(scalars, weight, moment1, moment2, vhat, gradient)
        self.assign(moment1, m)
        self.assign(moment2, v)
        if self.amsgrad:
            self.assign(vhat, largest)
        self.store(weight, w)
        return w

    def advance(self, scalars, weight, moment1, moment2, vhat, gradient):
        """Returns weight, moments and vhat after the step, or, left out, as they are."""
        w, m, v, largest = self.formula(scalars, weight, moment1, moment2, vhat, gradient)
        if self.leaves_out:
            is_made = scalars[-1]
            m, v = self.select(is_made, m, moment1), self.select(is_made, v, moment2)
            w = _select(is_made, w, _cast(weight, self.dtype))
            if self.amsgrad:
                largest = self.select(is_made, largest, vhat)
        return _cast(w, self.weight_dtype), m, v, largest

    def formula(self, scalars, weight, moment1, moment2, vhat, gradient):
        """Returns weight, in the dtype of the step, moments and vhat after the step."""
        _, step_size, epsilon, decay_factor, _, _ = scalars
        m = self.lerp(moment1, gradient, self.one_minus_beta1)  # beta1 m + (1 - beta1) g
        if self.infinity_norm:
            decayed = self.sub(moment2, self.mul(self.one_minus_beta2, moment2))  # beta2 u
            u = self.maximum(decayed, self.abs(gradient))
            # Not 0 / 0 where all gradients were 0 and epsilon is.
            divisor = self.maximum(self.add(u, epsilon), self.smallest)
            update = self.div(self.mul(step_size, m), divisor)
            return self.subtract(weight, decay_factor, update), m, u, u
        # beta2 v + (1 - beta2) g^2
        v = self.lerp(moment2, self.square(gradient), self.one_minus_beta2)
        update_numerator, largest = m, v
        if self.nesterov:  # beta1 m + (1 - beta1) g once more
            update_numerator = self.lerp(m, gradient, self.one_minus_beta1)
        if self.amsgrad:
            largest = self.maximum(vhat, v)  # Reddi et al. 2018, Algorithm 2
        # Not Addcdiv: its CPU kernel gives NaN for divisors of 1e-8.
        update = self.div(
            self.mul(step_size, update_numerator), self.add(self.sqrt(largest), epsilon)
        )
        return self.subtract(weight, decay_factor, update), m, v, largest

    def subtract(self, weight, decay_factor, update):
        """Returns the new weight, in the dtype of the step."""
        w = _cast(weight, self.dtype)
        if self.decoupled_decay:
            w = _mul(w, decay_factor)  # Loshchilov & Hutter 2019, Algorithm 2
        return _sub(w, update)

    def lerp_in_three(self, start, end, weight):
        return self.add(start, self.mul(weight, self.sub(end, start)))


class LazyBatch(CompositeBatch):
    """The same for tables of which rows without a gradient are skipped, moments and weight.

    Of a row-sparse gradient only the named rows are read and written. A dense gradient of two axes
    or more names the rows in which it is not all zero.
    """

    def __init__(self, formula, execution, state, *rest):
        super().__init__(formula, execution, state, *rest)
        self.places = tuple(range(len(state.weights))) if self.members is None else self.members
        self.step_one = when_known(self.step_any, *("Tensor",) * 11)

    def step(self, scalars, gradients, gradient_dtype, indices):
        gradients = self.map_(ops.partial(pick, gradients), self.places)
        if len(indices) == 0:
            step = ops.partial(self.step_whole, scalars)
            return self.map_(step, self.weights, self.moment1, self.moment2, gradients)
        indices = self.map_(ops.partial(pick, indices), self.places)
        s1, s2, s3, s4, s5, s6 = scalars  # see `Batch.step`
        step = ops.partial(self.step_one, s1, s2, s3, s4, s5, s6)
        return self.map_(step, self.weights, self.moment1, self.moment2, gradients, indices)

    def step_any(self, s1, s2, s3, s4, s5, s6, weight, moment1, moment2, values, indices):
        """Makes a step of a weight with a gradient of either kind; returns the weight."""
        scalars = (s1, s2, s3, s4, s5, s6)
        if indices.ndim == 0:
            return self.step_whole(scalars, weight, moment1, moment2, values)
        return self.step_rows(scalars, weight, moment1, moment2, values, indices)

    def step_whole(self, scalars, weight, moment1, moment2, gradient):
        """Makes a step of a weight with a dense gradient; returns the weight."""
        prepared = self.prepare(scalars, weight, gradient)
        w, m, v, _ = self.advance(scalars, weight, moment1, moment2, moment2, prepared)
        if gradient.ndim > 1:  # noqa: SIM102  `and` is not decided while a graph is compiled
            if gradient.size > 0:
                row = touched(_cast(gradient, self.dtype))
                m, v = ops.where(row, m, moment1), ops.where(row, v, moment2)
                # In the dtype of the moments, since there is no selection of bfloat16.
                w = ops.where(row, _cast(w, self.dtype), _cast(weight, self.dtype))
                w = _cast(w, self.weight_dtype)
        _assign(moment1, m)
        _assign(moment2, v)
        self.store(weight, w)
        return w

    def step_rows(self, scalars, weight, moment1, moment2, values, indices):
        """Makes a step of the named rows of a weight; returns the weight.

        A row that is named twice is computed twice, from its whole gradient, and written with
        equal values: the shapes are then known without a look at the indices.
        """
        if values.size == 0:
            return weight
        totals, place = sum_duplicates(values, indices, self.dtype)
        w, m, v = rows_of(weight, indices), rows_of(moment1, indices), rows_of(moment2, indices)
        gradient = self.prepare(scalars, w, rows_of(totals, place))
        w, m, v, _ = self.advance(scalars, w, m, v, v, gradient)
        new = weight
        if self.averages:  # which need values; see `Averages`
            whole, rows = _cast(weight, self.dtype), _cast(w, self.dtype)
            new = _scatter_into(whole, indices.reshape((-1, 1)), rows)
        stored = (
            store_rows(_assign, moment1, indices, m),
            store_rows(_assign, moment2, indices, v),
            store_rows(self.store, weight, indices, w),
        )
        return ops.depend(new, stored)


class NarrowBatch(CompositeBatch):
    """The same with moments in bfloat16, or with masters of which only trailing bits are kept."""

    def __init__(self, formula, execution, state, members, groups, device_target):
        super().__init__(formula, execution, state, members, groups, device_target)
        self.parameters = ParameterTuple(tuple(state.parameters[i] for i in members))
        self.narrow = execution.narrow
        self.in_halves = self.weights[0] is not self.parameters[0] and execution.halves
        if self.in_halves:
            self.weight_dtype = self.dtype
        count = 3 if formula.amsgrad else 2
        sizes = [parameter.size for parameter in self.parameters]
        self.counters = tuple(counters(i, size, count) for i, size in zip(members, sizes))
        self.draw, self.halves = Draw(), Halves()
        self.store_moment = store_operator(bfloat16, device_target)
        self.store_parameter = store_operator(self.parameters[0].dtype, device_target)
        self.step_known = when_known(self.step_one, *("Tensor",) * 16)

    def own_scalars(self, of_groups, gradient_scale, is_made):
        return self.scalars_of(of_groups[:4], gradient_scale, is_made), of_groups[4]

    def values(self):
        if self.in_halves:
            return self.map_(self.join, self.weights, self.parameters)
        return self.weights

    def join(self, trailing, parameter):
        places = _cast(_cast(trailing, ms.int32), ms.float32)
        return self.halves.joined(_cast(parameter, ms.float32), places)

    def step(self, scalars, gradients, gradient_dtype, indices):
        if self.members is not None:
            gradients = self.map_(ops.partial(pick, gradients), self.members)
        s1, s2, s3, s4, s5, s6 = scalars[0]
        key1, key2, places = scalars[1]
        step = ops.partial(self.step_known, s1, s2, s3, s4, s5, s6, key1, key2, places)
        state = (self.moment1, self.moment2, self.vhat)
        return self.map_(
            step,
            self.weights,
            self.parameters,
            state[0],
            state[1],
            state[2],
            self.counters,
            gradients,
        )

    def step_one(
        self,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        key1,
        key2,
        places,
        weight,
        parameter,
        moment1,
        moment2,
        vhat,
        counts,
        g,
    ):
        """Makes a step of a weight; returns its new value."""
        scalars = (s1, s2, s3, s4, s5, s6)
        w = self.join(weight, parameter) if self.in_halves else weight
        g = self.prepare(scalars, w, g)
        moments = (moment1, moment2, vhat)
        if self.narrow:
            moments = (
                _cast(moment1, self.dtype),
                _cast(moment2, self.dtype),
                _cast(vhat, self.dtype),
            )
        w, m, v, largest = self.advance(scalars, w, moments[0], moments[1], moments[2], g)
        if self.narrow:
            drawn = self.draw(counts, key1, key2)
            self.keep(moment1, m, drawn, places, 0)
            self.keep(moment2, v, drawn, places, 1)
            if self.amsgrad:
                self.keep(vhat, largest, drawn, places, 2)
        else:
            _assign(moment1, m)
            _assign(moment2, v)
            if self.amsgrad:
                _assign(vhat, largest)
        if self.in_halves:
            first, places = self.halves.parted(w)
            self.store_parameter(parameter, _cast(first, parameter.dtype))
            _assign(weight, _cast(_cast(places, ms.int32), weight.dtype))
        else:
            self.store(weight, w)
        return w

    def keep(self, moment, value, drawn, places, which):
        random = self.draw.of_moment(drawn, places, which, value)
        return self.store_moment(moment, _cast(self.halves.dithered(value, random), bfloat16))


class FlatBatch(CompositeBatch):
    """The same for all weights at once, joined into a row, with flat moments."""

    def __init__(self, formula, execution, state, members, groups, device_target):
        super().__init__(formula, execution, state, members, groups, device_target)
        if device_target == "CPU":  # a third of the time of Lerp there, and the same bits
            self.lerp = self.lerp_in_three
        parameters = [state.parameters[i] for i in members]
        self.rounded_dtype = parameters[0].dtype
        self.has_masters = self.rounded_dtype != self.weight_dtype
        self.row = Row(self.weights, self.store)
        if self.has_masters:
            self.rounded = Row(parameters, store_operator(self.rounded_dtype, device_target))
        self.store = self.write

    def values(self):
        row = self.row.read()
        if self.has_masters:  # see `MastersOfOneDtype.follow`
            parameter = self.rounded.read()
            rounding = _cast(_cast(row, self.rounded_dtype), self.dtype)
            row = _select(_equal(rounding, parameter), row, parameter)
        return (row,)

    def write(self, _, row):
        self.row.write(row)
        if self.has_masters:
            self.rounded.write(row)
        return True

    def step(self, scalars, gradients, gradient_dtype, indices):
        weight, moments = self.values()[0], (self.moment1[0], self.moment2[0], self.vhat[0])
        gradient = self.prepare(scalars, weight, gradients[self.place])
        return (self.update(scalars, weight, *moments, gradient),)

    def centralize(self, weight, gradient):
        # One by one: the means of a stack have other bits.
        return self.row.join(self.map_(subtract_means, self.weights, self.row.split(gradient)))


class Composite(OperatorBackend):
    """Runs wherever MindSpore has the dtype.

    Arguments, inputs and outputs are those of `OperatorBackend`.
    """

    capabilities = Capabilities(
        kernel="the step of operators",
        offload=True,
        flat_state=True,
        flat_by_row=True,
        narrow_state=("bfloat16",),
        halves=True,
    )

    @classmethod
    def batch_for(cls, formula: Formula, execution: Execution) -> type:
        if execution.narrow or execution.halves:
            return NarrowBatch
        if execution.flat:
            return FlatBatch
        return LazyBatch if formula.lazy else CompositeBatch
