"""The base of the two backends made of MindSpore operators: batches of weights, and their scalars.

Four habits keep the graph of a step small enough to compile; each was measured at 400 weights.
Operators are called as primitives (`P.Mul()`), not as the functions around them (`ops.mul`): each
function is one more graph for each weight (1.6 times the time). There is one map over the weights,
not one for each operator (10 times). Scalars reach the mapped function through `ops.partial`, in
one tuple, and are not repeated for each weight (10 times): hence the batches. The mapped
function is a method, since the parser decides `if self.option` at once, but makes graphs of both
branches for an argument (1.5 times).
"""

from typing import Any, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore.ops import operations as P

from ms_adam.backends.capabilities import Capabilities
from ms_adam.backends.narrow import Keys
from ms_adam.backends.rows import Rows
from ms_adam.compat import NO_FLOAT, RELEASE, SELECT_BROADCASTS, InplaceCopy, bfloat16
from ms_adam.options import Execution, Formula
from ms_adam.scalars import AverageRates, StepScalars, UpdateCount, scalar_dtype
from ms_adam.sparse import densify, sum_of_squares, when_known
from ms_adam.state import WeightKind, compute_dtype, dtype_name, weight_kinds

_add, _sub, _mul, _cast, _assign = P.Add(), P.Sub(), P.Mul(), P.Cast(), P.Assign()
_mean, _neg = P.ReduceMean(keep_dims=True), P.Neg()
_all, _isfinite, _floor_mod = P.ReduceAll(), P.IsFinite(), P.FloorMod()
_equal, _select, _maximum, _reshape = P.Equal(), P.Select(), P.Maximum(), P.Reshape()
_greater, _greater_equal = P.Greater(), P.GreaterEqual()
SHRINK = 2.0**-64  # see `needs_two_factors`


_OF_AVERAGES = {"add": P.Add, "sub": P.Sub, "mul": P.Mul, "select": P.Select, "store": P.Assign}


class OperatorBackend(nn.Cell):
    """Carries out one step, one batch of weights after the other.

    Subclasses declare `capabilities`, and name in `batch_for` the `Batch` that updates the weights
    of a formula.

    Inputs:
        global_step: int32 tensor of shape (1,): the steps that schedules have seen.
        rates: the learning rates, weight decays and `ema_decay` that `groups.GroupValues` returns.
        gradients: a tuple of tensors of any float dtype, each of its weight's shape or rows of it;
            () if the accumulators are to make the step.
        gradient_dtype: the dtype of all gradients, or NO_FLOAT if they differ.
        indices: (), or one for each gradient: which rows it is, or `sparse.DENSE`.

    Outputs:
        int32 tensor of shape (1,): 1 if the weights were updated, else 0.
    """

    capabilities: Capabilities

    @classmethod
    def batch_for(cls, formula: Formula, execution: Execution) -> type:
        """Returns the subclass of Batch that updates the weights."""
        raise NotImplementedError  # abstract: Primitive and Composite name theirs

    @classmethod
    def obstacle(
        cls,
        formula: Formula,
        execution: Execution,
        weights: Sequence[WeightKind],
        device_target: str,
    ) -> Optional[str]:
        """Returns why this backend cannot run; None if it can."""
        if execution.leaves_out and not SELECT_BROADCASTS:
            return f"{RELEASE} has no operator that keeps a whole tensor where a step is left out"
        return cls.capabilities.obstacle(formula, execution, weights, device_target)

    def __init__(self, formula, execution, parameters, state, groups, device_target):
        super().__init__(auto_prefix=False)
        dtype, weights = scalar_dtype(device_target), state.weights
        self.count = UpdateCount(formula, state.numbers, dtype, execution.leaves_out)
        self.scalars = StepScalars(groups.formulas, self.capabilities.kernel_rate, dtype)
        rows = groups.rows(weight_kinds(parameters, execution.masters))
        # Nothing is updated where there are no elements, and 2.7.0 cannot copy such a tensor.
        rows = [[i for i in row if weights[i].size > 0] for row in rows]
        rows = [row if execution.flat else sorted(row) for row in rows if row]
        batch = self.batch_for(formula, execution)
        self.batches = nn.CellList(
            [
                batch(
                    groups.formulas[groups.index[row[0]]],
                    execution,
                    state,
                    row,
                    groups,
                    device_target,
                )
                for row in rows
                if groups.owned[row[0]] is not None
            ],
            auto_prefix=False,
        )
        for place, one in enumerate(self.batches):
            one.place = place
        self.rows = None
        if execution.flat and rows:
            self.rows = Rows(weights, rows, dtype)
        norm = state.numbers.get("grad_norm")
        self.gradient_scale = GradientScale(execution, norm, dtype, self.rows)
        self.skips = execution.skips
        self.one = Tensor([1], ms.int32)
        self.judge = JudgeGradients(execution, state.numbers) if execution.skips else None
        self.accumulates, self.dtype = execution.accumulates, dtype
        if self.accumulates:
            sums = None if self.rows is None else Rows(state.accumulators, rows, dtype)
            self.accumulate = Accumulation(execution, state, dtype, sums)
        self.draws = execution.narrow or execution.halves
        self.keys = Keys(execution.seed) if self.draws else None
        self.lazy = formula.lazy
        self.average_rates = AverageRates(formula, state.numbers, dtype, execution.leaves_out)
        self.weights = weights
        self.map_ = ops.HyperMap()
        # Batches of rows keep their masters and parameters together.
        masters = parameters if execution.flat or execution.halves else weights
        self.masters = Masters(parameters, masters, device_target)

    def construct(self, global_step, rates, gradients, gradient_dtype, indices):
        if len(indices) > 0 and (self.accumulates or not self.lazy):
            gradients = self.map_(densify, self.weights, gradients, indices)
            gradient_dtype = NO_FLOAT if self.rows is not None else gradient_dtype
        if self.rows is not None and len(gradients) > 0:
            gradients = self.rows(gradients, gradient_dtype)
        reciprocal_scale = self.gradient_scale.reciprocal()
        # A step that is left out selects the old values. In a step with branches, a graph that was
        # compiled before Parameter.set_data goes on with the memory of that time (MindSpore 2.10).
        made = self.one
        if self.skips and len(gradients) > 0:
            made = self.judge(gradients)
        if self.accumulates:
            gradients, count, made = self.accumulate(gradients, reciprocal_scale, made)
            gradient_dtype, indices = NO_FLOAT, ()
            reciprocal_scale = self.gradient_scale.one / _cast(_reshape(count, ()), self.dtype)
        rows = indices if self.lazy else ()
        gradient_scale = self.gradient_scale(gradients, rows, reciprocal_scale, made)
        t = self.count(global_step, made)
        of_groups = self.scalars(t, rates[0], rates[1])
        if self.draws:
            of_groups = of_groups + (self.keys(t),)
        self.masters.follow()
        average_rates = self.average_rates(t, rates[2], made)
        is_made = _cast(_reshape(made, ()), ms.bool_)
        for batch in self.batches:
            batch(
                of_groups,
                gradient_scale,
                is_made,
                average_rates,
                gradients,
                gradient_dtype,
                indices,
            )
        self.masters.round()
        return ops.depend(made, t)  # a rank without weights has no other use of t: it must count


class Batch(nn.Cell):
    """The weights that share dtypes, learning rate, weight decay and switches."""

    def __init__(self, formula, execution, state, members, groups, device_target):
        super().__init__(auto_prefix=False)
        self.weights = _take(state.weights, members)
        weight_dtype, self.group = self.weights[0].dtype, groups.index[members[0]]
        decayed, self.centralized = groups.decayed[members[0]], groups.centralized[members[0]]
        self.moment1 = state.moments_of("moment1", members)
        self.moment2 = state.moments_of("moment2", members)
        self.vhat = state.moments_of("vhat", members) if formula.amsgrad else self.moment2
        self.members = None if len(members) == len(state.weights) else tuple(members)
        self.dtype, self.weight_dtype = compute_dtype(weight_dtype), weight_dtype
        self.store = store_operator(weight_dtype, device_target)
        self.nesterov, self.amsgrad = formula.nesterov, formula.amsgrad
        self.maximize = formula.maximize
        clips = execution.max_grad_norm is not None
        scales = execution.loss_scale != 1.0 or execution.scaler is not None
        self.scaled = scales or clips or formula.maximize or execution.accumulates
        # Accumulated gradients have no loss scale any more.
        self.in_two = not execution.accumulates and needs_two_factors(execution)
        self.shrink = Tensor(SHRINK, self.dtype)
        self.grow = Tensor(1.0 / SHRINK, scalar_dtype(device_target))
        self.l2 = decayed and not formula.decoupled
        self.decoupled_decay = decayed and formula.decoupled
        self.changed = self.scaled or self.l2 or self.centralized
        # An epsilon that the dtype rounds to 0 becomes its smallest number, to avoid 0 / 0. The
        # bias correction multiplies it by sqrt(1 - beta2^t), which is at least 2^-26.5.
        tiny = float(np.finfo(dtype_name(self.dtype)).tiny)
        self.floors = 0.0 < formula.eps * 2.0**-27 < tiny
        self.smallest = Tensor(tiny, self.dtype)
        self.leaves_out = execution.leaves_out
        self.averages = formula.ema_decay is not None
        self.begins = self.averages and not formula.ema_debias
        if self.averages:
            self.average = Averages(state.moments_of("ema", members), execution)
        self.map_ = ops.HyperMap()
        self.densified = when_known(self.step_densified, *("Tensor",) * 11)

    def construct(
        self, of_groups, gradient_scale, is_made, average_rates, gradients, gradient_dtype, indices
    ):
        scalars = self.own_scalars(of_groups, gradient_scale, is_made)
        if not self.averages:
            return self.step(scalars, gradients, gradient_dtype, indices)
        starts = self.average.averages
        if self.begins:
            starts = self.average(average_rates[0], starts, self.values())
        weights = self.step(scalars, gradients, gradient_dtype, indices)
        return self.average.set(is_made, self.average(average_rates[1], starts, weights))

    def values(self):
        """Returns the weights before the step, as the moments stand."""
        return self.weights

    def step(self, scalars, gradients, gradient_dtype, indices):
        """Makes the steps of all weights; returns their new values."""
        if self.members is not None:
            gradients = self.map_(ops.partial(pick, gradients), self.members)
        if len(indices) > 0:
            # One by one: of a tuple, an overloaded function is given zeros (MindSpore 2.10).
            s1, s2, s3, s4, s5, s6 = scalars
            step = ops.partial(self.densified, s1, s2, s3, s4, s5, s6)
            return self.map_(step, self.weights, self.moment1, self.moment2, self.vhat, gradients)
        if self.changed or gradient_dtype != self.dtype:
            prepare = ops.partial(self.prepare, scalars)
            gradients = self.map_(prepare, self.weights, gradients)
        step = ops.partial(self.update, scalars)
        return self.map_(step, self.weights, self.moment1, self.moment2, self.vhat, gradients)

    def own_scalars(self, of_groups, gradient_scale, is_made):
        """Returns what `step` needs to know of this step: here `scalars_of`."""
        return self.scalars_of(of_groups, gradient_scale, is_made)

    def scalars_of(self, of_groups, gradient_scale, is_made):
        """Returns the scalars of this batch, in the dtype of the step and of shape ().

        These are the factor of the gradients, negative under maximize; the step size, with the
        corrections of `StepScalars` folded in; epsilon, likewise; the factor that decoupled weight
        decay applies to the weight; the weight decay; and, a bool, whether the step is made.
        """
        if self.in_two:
            gradient_scale = gradient_scale * self.grow
        gradient_scale = _cast(gradient_scale, self.dtype)
        if self.maximize:
            gradient_scale = _neg(gradient_scale)
        step_sizes, epsilons, decay_factors, weight_decays = of_groups
        epsilon = _cast(epsilons[self.group], self.dtype)
        if self.floors:
            epsilon = _maximum(epsilon, self.smallest)
        return (
            gradient_scale,
            _cast(step_sizes[self.group], self.dtype),
            epsilon,
            _cast(decay_factors[self.group], self.dtype),
            _cast(weight_decays[self.group], self.dtype),
            is_made,
        )

    def step_densified(self, s1, s2, s3, s4, s5, s6, weight, moment1, moment2, vhat, gradient):
        """Makes a step of a weight with a gradient that has become dense; returns the weight."""
        scalars = (s1, s2, s3, s4, s5, s6)
        gradient = self.prepare(scalars, weight, gradient)
        return self.update(scalars, weight, moment1, moment2, vhat, gradient)

    def prepare(self, scalars, weight, gradient):
        """Returns the gradient of the unscaled, regularised loss, in the order of `nn.Adam`."""
        gradient_scale, _, _, _, weight_decay, _ = scalars
        gradient = _cast(gradient, self.dtype)
        if self.in_two:
            gradient = _mul(gradient, self.shrink)
        if self.scaled:
            gradient = _mul(gradient, gradient_scale)
        if self.l2:
            gradient = _add(gradient, _mul(weight_decay, _cast(weight, self.dtype)))
        if self.centralized:
            gradient = self.centralize(weight, gradient)
        return gradient

    def centralize(self, weight, gradient):
        return subtract_means(weight, gradient)

    def update(self, scalars, weight, moment1, moment2, vhat, gradient):
        """Makes one step of one weight; returns its new value.

        Args:
            scalars: see `own_scalars`.
            weight, moment1, moment2, vhat: Parameters of one shape; vhat is read only under
                AMSGrad.
            gradient: prepared, in the dtype of the step.
        """
        raise NotImplementedError  # abstract: the subclasses of `batch_for` have the formula


def subtract_means(weight, gradient):
    """Takes off the means over all axes but the first (Yong et al. 2020, equation 1)."""
    if weight.ndim > 1:
        gradient = _sub(gradient, _mean(gradient, tuple(range(1, weight.ndim))))
    return gradient


class GradientScale(nn.Cell):
    """The factor of the gradients: it takes out a scale, then clips their norm.

        1 / scale * max_grad_norm / max(norm, max_grad_norm),  norm of gradients / scale

    (Pascanu et al. 2013, algorithm 1). Squares are summed in `dtype`: in float32 the sum over a
    million elements has lost digits, and the squares of float16 gradients vanish.

    Args:
        norm: float32 Parameter of shape () that is set to the norm; None if nothing is clipped.
        dtype: in which the norm is computed.
        rows: the `Rows` that joined the gradients; None if they are apart.

    Inputs:
        gradients, indices: as of `OperatorBackend`.
        reciprocal_scale: 1 / scale, of `dtype` and shape ().
        made: int32 tensor of shape (1,); if steps accumulate, the norm is set where this is 1.
    """

    def __init__(self, execution, norm, dtype, rows):
        super().__init__(auto_prefix=False)
        self.dtype, self.rows = dtype, rows
        self.clips, self.norm = norm is not None, norm
        self.fixed_scale = Tensor(1.0 / execution.loss_scale, dtype)
        self.scale = None if execution.scaler is None else execution.scaler.scale
        self.is_fixed = execution.scaler is None
        self.zero, self.one = Tensor(0.0, dtype), Tensor(1.0, dtype)
        self.max_norm = Tensor(execution.max_grad_norm if self.clips else 0.0, dtype)
        self.accumulates = execution.accumulates
        self.map_ = ops.HyperMap()

    def reciprocal(self):
        """Returns 1 / loss scale."""
        if self.is_fixed:
            return self.fixed_scale
        return self.one / _cast(_reshape(self.scale, ()), self.dtype)

    def construct(self, gradients, indices, reciprocal_scale, made):
        if not self.clips:
            return reciprocal_scale
        if self.rows is not None:
            squares = self.rows.squares(self.zero, gradients)
        elif len(indices) == 0:
            squares = self.map_(ops.partial(sum_of_squares, self.zero), gradients)
        else:
            squares = self.map_(ops.partial(sum_of_squares, self.zero), gradients, indices)
        norm = ops.sqrt(ops.addn(squares)) * reciprocal_scale
        shown = _cast(norm, ms.float32)
        if self.accumulates:
            shown = _select(_cast(_reshape(made, ()), ms.bool_), shown, self.norm)
        _assign(self.norm, shown)
        # A norm that is NaN clips nothing, as in ops.clip_by_global_norm: NaN stays where it is.
        factor = ops.select(norm > self.max_norm, self.max_norm / norm, self.one)
        return reciprocal_scale * factor


class Averages(nn.Cell):
    """The averages of the weights of a batch; see `scalars.AverageRates`.

    Args:
        averages: ParameterTuple.
    """

    def __init__(self, averages, execution):
        super().__init__(auto_prefix=False)
        self.averages, self.dtype, self.map_ = averages, averages[0].dtype, ops.HyperMap()
        self.leaves_out = execution.leaves_out
        for name, operator in _OF_AVERAGES.items():
            operator = operator()
            setattr(self, name, operator.set_device("CPU") if execution.on_host else operator)

    def construct(self, rate, starts, weights):
        """Returns starts moved by a rate, a scalar tensor from 0 to 1, towards the weights.

        Arguments are values, not Parameters that were assigned before: arithmetic on a float64
        Parameter after an Assign in the same graph is done in float32 (MindSpore 2.10.0, CPU).
        """
        return self.map_(ops.partial(self.move, _cast(rate, self.dtype)), starts, weights)

    def move(self, rate, start, weight):
        apart = self.sub(_cast(weight, self.dtype), start)
        return self.add(start, self.mul(rate, apart))

    def set(self, is_made, values):
        """Sets the averages, unless the step is left out."""
        if self.leaves_out:
            values = self.map_(ops.partial(self.select, is_made), values, self.averages)
        return self.map_(self.store, self.averages, values)


class JudgeGradients(nn.Cell):
    """Finds whether all gradients are finite, counts steps that are skipped, moves the loss scale.

    Args:
        numbers: those of a `State`; `skipped` and the scale are set.

    Outputs:
        int32 tensor of shape (1,): 1 if all are finite, else 0.
    """

    def __init__(self, execution, numbers):
        super().__init__(auto_prefix=False)
        self.skipped, self.skipped_in_row = numbers["skipped"], numbers["skipped_in_row"]
        self.moves = "scale_counter" in numbers
        self.scale, self.counter = numbers.get("scale_value"), numbers.get("scale_counter")
        if self.moves:
            self.factor = Tensor(execution.scaler.factor, ms.float32)
            self.window = Tensor(execution.scaler.window, ms.int32)
            self.least = Tensor(1.0, ms.float32)
            self.unit = Tensor(1, ms.int32)
        self.map_ = ops.HyperMap()
        self.one = Tensor([1], ms.int32)

    def construct(self, gradients):
        finite = self.map_(_is_finite, gradients)
        finite = _all(ops.stack(finite)) if len(finite) > 1 else finite[0]
        made = _reshape(_cast(finite, ms.int32), (1,))
        left_out = self.one - made
        _assign(self.skipped, self.skipped + left_out)
        _assign(self.skipped_in_row, (self.skipped_in_row + self.one) * left_out)
        if self.moves:
            self.adjust(finite, _reshape(made, ()))
        return made

    def adjust(self, finite, made):
        """Adjusts the scale, as `mindspore.amp.DynamicLossScaler.adjust` does."""
        larger, smaller = self.scale * self.factor, _maximum(self.least, self.scale / self.factor)
        grows = ops.logical_and(self.counter == self.window - self.unit, ops.isfinite(larger))
        scale = _select(finite, _select(grows, larger, self.scale), smaller)
        counter = _floor_mod(self.counter + self.unit, self.window) * made
        _assign(self.scale, scale)
        _assign(self.counter, counter)
        return True


class Accumulation(nn.Cell):
    """Adds gradients without their loss scale, call after call, until an update is due.

    Args:
        state: a `State`; accumulators and their count are set.
        dtype: in which scalars are computed.
        rows: the `Rows` of the accumulators, if gradients are rows; else None.

    Inputs:
        gradients: of all weights, or rows of them; () to update with what is accumulated.
        reciprocal_scale: 1 / loss scale, of `dtype` and shape ().
        finite: int32 tensor of shape (1,), 0 if these gradients are to be left out, else 1.

    Outputs:
        The sums; how many gradients are in each, int32 of shape (1,); and 1 if the update is due,
        else 0, likewise.
    """

    def __init__(self, execution, state, dtype, rows):
        super().__init__(auto_prefix=False)
        self.accumulators, self.accumulated = state.accumulators, state.numbers["accumulated"]
        self.rows = rows
        self.steps = Tensor([execution.accumulate_steps], ms.int32)
        self.none, self.one = Tensor([0], ms.int32), Tensor([1], ms.int32)
        self.skips, self.in_two = execution.skips, needs_two_factors(execution)
        self.shrink, self.grow = Tensor(SHRINK, dtype), Tensor(1.0 / SHRINK, dtype)
        self.map_ = ops.HyperMap()

    def construct(self, gradients, reciprocal_scale, finite):
        before, sums = self.accumulated, self.accumulators
        if self.rows is not None:
            sums = self.rows.read()
        if len(gradients) == 0:
            count = before + self.none
            due = _cast(_greater(count, self.none), ms.int32)
        else:
            if self.in_two:
                reciprocal_scale = reciprocal_scale * self.grow
            begins = _reshape(_equal(before, self.none), ())
            is_finite = _cast(_reshape(finite, ()), ms.bool_)
            add = ops.partial(self.add, reciprocal_scale, begins, is_finite)
            sums, count = self.map_(add, sums, gradients), before + finite
            if self.rows is not None:
                self.rows.write(sums)
            due = _cast(_greater_equal(count, self.steps), ms.int32) * finite
        _assign(self.accumulated, count * (self.one - due))
        return sums, count, due

    def add(self, reciprocal_scale, begins, is_finite, accumulator, gradient):
        """Adds a gradient to its accumulator, or begins a sum; returns the sum."""
        if accumulator.size == 0:  # on a GPU MindSpore 2.10 selects between no such tensors
            return accumulator
        gradient = _cast(gradient, accumulator.dtype)
        if self.in_two:
            gradient = _mul(gradient, _cast(self.shrink, accumulator.dtype))
        gradient = _mul(gradient, _cast(reciprocal_scale, accumulator.dtype))
        total = _select(begins, gradient, _add(accumulator, gradient))
        if self.skips:
            total = _select(is_finite, total, accumulator)
        if self.rows is not None:
            return total
        return ops.depend(total, _assign(accumulator, total))


def needs_two_factors(execution: Execution) -> bool:
    """Returns whether gradients lose their loss scale in two steps, the first times SHRINK.

    The reciprocal of a large scale, clipped, would be flushed to zero. Powers of 2 are exact.
    """
    return execution.scaler is not None or execution.loss_scale > 1.0 / SHRINK


def _is_finite(gradient):
    if gradient.dtype != ms.float64:  # of which float32 would make Inf
        gradient = _cast(gradient, ms.float32)
    return _all(_isfinite(gradient))


class Masters(nn.Cell):
    """Keeps master weights and their parameters together.

    Args:
        weights: their master weights; the parameter itself where there is none.
    """

    def __init__(self, parameters, weights, device_target):
        super().__init__(auto_prefix=False)
        copied = {}
        for i, weight in enumerate(weights):
            if weight is not parameters[i] and weight.size > 0:
                copied.setdefault(parameters[i].dtype, []).append(i)
        self.alike = nn.CellList(
            [
                MastersOfOneDtype(
                    _take(parameters, members), _take(weights, members), device_target
                )
                for members in copied.values()
            ],
            auto_prefix=False,
        )

    def follow(self):
        for masters in self.alike:
            masters.follow()
        return True

    def round(self):
        for masters in self.alike:
            masters.round()
        return True


class MastersOfOneDtype(nn.Cell):
    """The master weights of parameters of one dtype."""

    def __init__(self, parameters, weights, device_target):
        super().__init__(auto_prefix=False)
        self.parameters, self.weights = parameters, weights
        self.dtype = parameters[0].dtype
        self.store = store_operator(self.dtype, device_target)
        self.map_ = ops.HyperMap()

    def follow(self):
        """Sets each master whose rounding differs from its parameter to the parameter.

        The parameter was then set since the last step: load_param_into_net, set_data, assign.
        """
        return self.map_(self.follow_one, self.weights, self.parameters)

    def follow_one(self, weight, parameter):
        value = _cast(parameter, ms.float32)
        rounding = _cast(_cast(weight, self.dtype), ms.float32)
        return _assign(weight, _select(_equal(rounding, value), weight, value))

    def round(self):
        """Sets the parameters to the roundings of their masters."""
        return self.map_(self.round_one, self.parameters, self.weights)

    def round_one(self, parameter, weight):
        return self.store(parameter, _cast(weight, self.dtype))


def store_operator(dtype: Any, device_target: str) -> ops.Primitive:
    """Returns the operator that sets a parameter; `Assign` has no bfloat16 on the CPU."""
    return InplaceCopy() if dtype == bfloat16 and device_target == "CPU" else P.Assign()


def _take(parameters, members):
    return ParameterTuple(tuple(parameters[i] for i in members))


def pick(gradients, i):
    return gradients[i]
