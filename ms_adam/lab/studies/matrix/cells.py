"""One cell of the acceptance matrix: makes an optimizer of a case, runs it, judges its steps.

Python 3.7 syntax: the tests of the optimizer on MindSpore 2.0.0 import this module.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, amp, nn
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

import ms_adam
from ms_adam import reference
from ms_adam.backends import BACKENDS
from ms_adam.checkpoint import core_of, slots
from ms_adam.lab import measure, targets
from ms_adam.lab.studies.matrix.cases import (
    SHAPES,
    Case,
    PerStep,
    Scaler,
    gradients,
    reference_for,
    with_epsilon_hat,
)
from ms_adam.narrow import halves_of
from ms_adam.scalars import scalar_dtype
from ms_adam.state import numbers_after, on_host, write

STEPS = 4  # as many as the table's schedules and sizes of gradients have at least

# Some kernels refuse shape (), and nn.Adam refuses empty tensors: then without these.
SHAPE_SETS = (
    SHAPES,
    tuple(shape for shape in SHAPES if 0 not in shape),
    tuple(shape for shape in SHAPES if shape != ()),
    tuple(shape for shape in SHAPES if shape != () and 0 not in shape),
)


# --- optimizers of cases -----------------------------------------------------------------------


class DecayTable(nn.Cell):
    """A schedule of weight decays, from a table: a plain Cell."""

    def __init__(self, values):
        super().__init__()
        self.table = Tensor(values, ms.float32)

    def construct(self, global_step):
        return self.table[global_step].reshape(())


class RateTable(DecayTable, LearningRateSchedule):
    """A schedule of learning rates, from a table."""


def for_each(dtype: Union[str, Sequence[str]], count: int) -> Sequence[str]:
    """A dtype for each of `count` parameters."""
    return [dtype] * count if isinstance(dtype, str) else dtype


def make_parameters(shapes, dtype: Union[str, Sequence[str]], seed: int = 1) -> list:
    """Parameters whose elements are of sizes 1, 1e-3 and 0 in turn.

    A weight of size 1 hides an error of the update below its own rounding, 6e-8; beside a weight
    that is 0 the update's last digits show.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([1.0, 1e-3, 0.0])
    parameters = []
    dtypes = for_each(dtype, len(shapes))
    for i, shape in enumerate(shapes):
        values = rng.standard_normal(shape) * np.resize(np.roll(sizes, i), shape)
        parameters.append(
            Parameter(Tensor(values, getattr(ms, dtypes[i])), name=f"layer{i}.weight")
        )
    return parameters


def make_optimizer(case: Case, parameters: list, **more: Any) -> nn.Optimizer:
    """The optimizer of ours that a case describes, with further options."""
    optimizer = functools.reduce(getattr, case.optimizer.split("."), ms_adam)
    return _make(optimizer, case, {**case.options, **more}, parameters)


def make_nn_adam(case: Case, parameters: list) -> nn.Optimizer:
    """`nn.Adam` for a case; its one formula has epsilon-hat.

    Raises:
        LookupError: It cannot compute the case.
    """
    if case.optimizer != "Adam":
        lacks = {"AdamW": "decoupled weight decay", "AdaMax": "infinity norm"}
        raise LookupError(f"nn.Adam has no {lacks.get(case.optimizer, 'such interface')}")
    options = {name: value for name, value in case.options.items() if name != "epsilon_hat"}
    return _make(nn.Adam, case, options, parameters)


def _make(optimizer, case, options, parameters):
    if not case.groups:
        return optimizer(parameters, **_for_mindspore(options))
    count = len(case.groups)
    groups = [
        {"params": parameters[i::count], **_for_mindspore(group)}
        for i, group in enumerate(case.groups)
    ]
    if case.reordered:
        groups.append({"order_params": parameters[::-1]})
    return optimizer(groups, **_for_mindspore(options))


def _for_mindspore(options):
    def converted(name, value):
        if isinstance(value, Scaler):
            return amp.DynamicLossScaler(*value)
        if not isinstance(value, PerStep):
            return value
        if value.kind == "list":
            return list(value.values)
        if value.kind == "tensor":
            return Tensor(value.values, ms.float32)
        return (DecayTable if name == "weight_decay" else RateTable)(value.values)

    return {name: converted(name, value) for name, value in options.items()}


class CompiledStep(nn.Cell):
    """An optimizer as part of a graph, in either mode, and not called from Python."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def __call__(self, gradients):
        return super().__call__(ms.mutable(gradients))

    @ms.jit
    def construct(self, gradients):
        return self.optimizer(gradients)


# --- the state of an optimizer -----------------------------------------------------------------


class Snapshot(NamedTuple):
    """Lists of float64 arrays, one for each parameter in the optimizer's order."""

    weights: list[np.ndarray]  # the weights that are updated: the parameters or their master copies
    moment1: list[np.ndarray]
    moment2: list[np.ndarray]
    vhat: Optional[list[np.ndarray]]  # the largest second moments, or None
    parameters: list[np.ndarray]
    averages: Optional[list[np.ndarray]] = None  # the averages of the weights, or None


def snapshot(optimizer: nn.Optimizer) -> Snapshot:
    """The `Snapshot` of an optimizer of ours, of any layout, or of `nn.Adam`."""
    optimizer = core_of(optimizer)
    state = targets.MindSporeOptimizer(optimizer).state()
    exact = {q: [np.array(x, np.float64) for x in arrays] for q, arrays in state.items()}
    parameters = exact.pop("parameter")
    masters = getattr(optimizer, "master_weights", None)
    weights = parameters if masters is None else list(map(to_numpy, masters))
    entries = slots(optimizer) if hasattr(optimizer, "execution") else {}
    if hasattr(optimizer, "trailing_bits"):
        weights = [
            np.array(entries[f"master_weight.{p.name}"].rows, np.float64)
            if f"master_weight.{p.name}" in entries
            else weight
            for p, weight in zip(optimizer.parameters, weights)
        ]
    averages = None
    if getattr(optimizer, "ema", None) is not None:
        rows = (entries[f"ema.{parameter.name}"].rows for parameter in optimizer.parameters)
        averages = [np.array(x, np.float64).reshape(w.shape) for x, w in zip(rows, weights)]
    moments = exact["moment1"], exact["moment2"], exact.get("vhat")
    return Snapshot(weights, *moments, parameters, averages)


def put(optimizer: nn.Optimizer, values: Snapshot, step: int) -> None:
    """Sets weights, moments and the count of an optimizer of ours to those of a snapshot."""
    host = on_host(optimizer)

    def assign(buffer, array):
        write(buffer, array, id(buffer) in host)

    for parameter, weight in zip(optimizer.parameters, values.parameters):
        assign(parameter, weight)
    for prefix in ("moment1", "moment2", "vhat"):
        for i, buffer in enumerate(getattr(optimizer, prefix, ())):
            if hasattr(optimizer, "layout"):
                array, layout = np.zeros(buffer.shape), optimizer.layout
                of = dict(zip((p.name for p in optimizer.parameters), getattr(values, prefix)))
                for name, key, offset in zip(layout.names, layout.dtypes, layout.offsets):
                    if key == list(layout.sizes())[i]:
                        array[offset : offset + of[name].size] = of[name].reshape(-1)
                assign(buffer, array)
            else:
                assign(buffer, getattr(values, prefix)[i])
    assign(optimizer.global_step, [step])
    for number, value in numbers_after(optimizer, step):
        assign(number, value)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A float64 array of a tensor of any float dtype."""
    return np.array(targets.to_numpy(tensor), np.float64)


def as_tensors(arrays, dtype: Union[str, Sequence[str]]) -> tuple:
    """Tensors of a dtype, or of one each, and the float64 arrays of their values."""
    dtypes = for_each(dtype, len(arrays))
    tensors = tuple(Tensor(array, getattr(ms, dtype)) for array, dtype in zip(arrays, dtypes))
    return tensors, [to_numpy(tensor) for tensor in tensors]


# --- judging steps -----------------------------------------------------------------------------

# Takes a `reference.Adam`, returns the `Arithmetic` of an implementation.
ArithmeticOf = Callable[[reference.Adam], measure.Arithmetic]


def our_arithmetic(backend: str, dtype: str) -> ArithmeticOf:
    """The arithmetic of a backend of ours for weights of a dtype.

    Moments are float32, or float64 for float64.
    """
    moments = "float64" if dtype == "float64" else "float32"

    def of(adam):
        rate = BACKENDS[backend].capabilities.kernel_rate
        return measure.Arithmetic(moments, rate(adam.beta1), rate(adam.beta2))

    return of


def nn_adam_arithmetic(dtype: str) -> ArithmeticOf:
    """The arithmetic of `nn.Adam`: moments have the parameters' dtype, numbers are float32."""

    def of(adam):
        betas = (float(np.float32(beta)) for beta in (adam.beta1, adam.beta2))
        return measure.Arithmetic(dtype, *betas, float32_scalars=True)

    return of


def exact_step(
    case: Case,
    names,
    step: int,
    before: Snapshot,
    fed,
    dtype: Union[str, Sequence[str]],
    arithmetic: Callable[[str], ArithmeticOf],
    adam_of=reference_for,
    unsure=None,
) -> list[tuple]:
    """One step of the reference from the state of an optimizer.

    Returns for each parameter the state and the weight after it, and the bounds on moment1, moment2
    and the weight.

    Args:
        names: Of the parameters, as `make_parameters` gives them.
        step: Steps already made.
        before: The state before the step.
        fed: The gradients, exact.
        dtype: Of the weights, or of each.
        arithmetic: Takes the dtype of a weight and returns the arithmetic of the implementation.
        adam_of: Takes (case, parameter, step) and returns the expected formula; bounds are always
            those of the case itself.
        unsure: Bounds on the errors of the unscaled gradients that come before the step, an array
            for each; None: there are none.
    """
    expected, errors = [], [np.zeros(g.shape) for g in fed] if unsure is None else unsure
    max_norm = case.options.get("max_grad_norm")
    if max_norm is not None:
        loss_scale = case.loss_scale  # clipping acts on unscaled gradients
        dtype_of_norm = str(scalar_dtype(ms.get_context("device_target"))).lower()
        unscaled = [g / loss_scale for g in fed]
        fed, errors = measure.clipped(unscaled, max_norm, errors, dtype_of_norm)
        fed = [g * loss_scale for g in fed]
    for i, (name, gradient) in enumerate(zip(names, fed)):
        number = int(name[len("layer") :].split(".")[0])
        right, adam = reference_for(case, number, step), adam_of(case, number, step)
        vhat = None if before.vhat is None else before.vhat[i]
        start = reference.AdamState(step, before.moment1[i], before.moment2[i], vhat)
        weight, state = adam.step(before.weights[i], gradient, start)
        of_weight = for_each(dtype, len(fed))[i]
        bounds = measure.step_bounds(
            right,
            gradient,
            start,
            state,
            before.weights[i],
            weight,
            dtype=of_weight,
            arithmetic=arithmetic(of_weight)(right),
            gradient_error=errors[i],
        )
        expected.append((state, weight, bounds))
    return expected


def compared(
    after: Snapshot, expected: list[tuple], state_dtype: str = "float32"
) -> Iterator[tuple]:
    """Yields (got, wanted, bound) of moments, maximum and weight of each parameter."""
    for i, (state, weight, (error1, error2, error_weight)) in enumerate(expected):
        moments = [
            (after.moment1, state.moment1, error1, True),
            (after.moment2, state.moment2, error2, False),
        ]
        if getattr(state, "vhat", None) is not None:  # a maximum is off by no more than its terms
            moments.append((after.vhat, state.vhat, error2, False))
        for got, wanted, error, is_signed in moments:
            narrow = measure.narrow_spacing(wanted, error, state_dtype, is_signed)
            yield got[i], wanted, error + narrow
        yield after.weights[i], weight, error_weight


def averages(
    case: Case, step: int, before: Snapshot, after: Snapshot, weights: Sequence[str]
) -> Iterator:
    """Yields (got, wanted, bound) of the average of each weight, from what is averaged.

    `step` is the number of steps already made, and `weights` has the dtype of each weight.
    """
    decay, debias = case.options["ema_decay"], case.options.get("ema_debias", True)
    average = reference.Average(decay, debias)
    rate = (1.0 - decay) / (1.0 - decay ** (step + 1)) if debias else 1.0 - decay
    for old, start, weight, got, dtype in zip(
        before.averages, before.weights, after.weights, after.averages, weights
    ):
        dtype = "float64" if dtype == "float64" else "float32"
        if step == 0:
            sum_before = average.start(start)
        else:
            sum_before = old * (1.0 - decay**step) if debias else old
        wanted = average.value(average.update(sum_before, weight), step + 1)
        bound = measure.average_bound(rate, weight - old, wanted, dtype)
        if dtype == "float64":
            # The reference rounds 8 times, and each of its two 1 - decay^t may be off by
            # u / (1 - decay).
            size = np.maximum(np.abs(old), np.abs(wanted))
            bound = bound + measure.UNIT[dtype] * (8 + 2 / (1.0 - decay)) * size
        yield got, wanted, bound


class _ScalerWatch:
    """Follows the loss scaler of an optimizer by the reference; of one without, the scale is 1."""

    def __init__(self, case, optimizer):
        given = case.options.get("loss_scale")
        self._rule = given if isinstance(given, Scaler) else None
        self._scaler, self.scale, self._finite_steps = optimizer.loss_scale, 1.0, 0
        if self._rule is not None:
            self.scale = self._rule.value

    def check(self, finite):
        """Raises AssertionError unless scale and counter are those after such a step."""
        if self._rule is None:
            return
        self.scale, self._finite_steps = reference.adjust_loss_scale(
            self.scale, self._finite_steps, finite, self._rule.factor, self._rule.window
        )
        got = float(self._scaler.scale_value), int(self._scaler.counter)
        if got != (self.scale, self._finite_steps):
            wanted = self.scale, self._finite_steps
            raise AssertionError(f"loss scale and counter are {got}, not {wanted}")


def spoiled(arrays, dtype: Union[str, Sequence[str]], value: float) -> tuple:
    """Tensors of gradients of which the last element is NaN or infinite."""
    arrays = [np.array(array) for array in arrays]
    last = [array for array in arrays if array.size][-1]
    last.reshape(-1)[-1] = value
    return as_tensors(arrays, dtype)[0]


def excess(
    case: Case,
    dtype: Union[str, Sequence[str]],
    optimizer: nn.Optimizer,
    *,
    compiled: bool = False,
    scale: Any = 1.0,
    steps: int = STEPS,
    adam_of=reference_for,
) -> float:
    """The largest error of any element in any step of an optimizer of ours, by its bound.

    Each step of the reference starts from the state that the optimizer really left, so that a
    bound for one step holds, and errors of several steps do not hide each other.

    Args:
        case: Of the optimizer.
        dtype: Of its parameters, or of each.
        optimizer: One of ours.
        compiled: Whether a graph calls it, and not Python.
        scale: Standard deviation of the gradients before the loss scale, or one for each step.
        adam_of: As in `exact_step`.

    Returns:
        A share of the bound: up to 1 the optimizer held.
    """
    worst = 0.0
    shapes = [parameter.shape for parameter in optimizer.parameters]
    weights = for_each(dtype, len(shapes))
    if case.options.get("master_weights"):
        weights = ["float64" if it == "float64" else "float32" for it in weights]
    arithmetic = functools.partial(our_arithmetic, optimizer.backend)
    names = [parameter.name for parameter in optimizer.parameters]
    calls = case.options.get("accumulate_steps", 1)
    scales = np.repeat(np.broadcast_to(np.multiply(scale, case.loss_scale), steps), calls)
    given = iter(gradients(shapes, steps * calls, scales))
    make_step = CompiledStep(optimizer) if compiled else optimizer
    scaler = _ScalerWatch(case, optimizer)
    for step in range(steps):
        before, taken = snapshot(optimizer), []
        for call, arrays in enumerate(itertools.islice(given, calls), 1):
            if case.skips and step % 2 == 0:
                make_step(spoiled(arrays, dtype, np.nan if step == 0 else -np.inf))
                scaler.check(finite=False)
                np.testing.assert_equal(snapshot(optimizer), before, "by a skipped call")
            tensors, fed = as_tensors([scaler.scale * array for array in arrays], dtype)
            taken.append([gradient / scaler.scale for gradient in fed])
            make_step(tensors)
            scaler.check(finite=True)
            if call < calls:
                np.testing.assert_equal(snapshot(optimizer), before, "by an accumulating call")
        after = snapshot(optimizer)
        if int(optimizer.update_count) != step + 1:
            raise AssertionError(f"{int(optimizer.update_count)} updates counted of {step + 1}")
        fed, unsure = taken[0], None
        if calls > 1:
            fed = reference.mean_of_calls(taken)
            # Factor, product, calls - 1 sums, and the mean: each call is rounded calls + 2 times.
            sizes = reference.mean_of_calls([[np.abs(g) for g in call] for call in taken])
            u = (calls + 2) / case.loss_scale
            units = [
                2 * measure.UNIT[it] if it == "float64" else measure.UNIT["float32"]
                for it in weights
            ]
            unsure = [u * unit * size for unit, size in zip(units, sizes)]
        expected = exact_step(case, names, step, before, fed, weights, arithmetic, adam_of, unsure)
        state_dtype = case.options.get("state_dtype", "float32")
        for got, wanted, bound in compared(after, expected, state_dtype):
            if not (np.all(np.isfinite(wanted)) and np.all(np.isfinite(bound))):
                raise AssertionError(f"no finite bound in step {step + 1}")
            worst = max(worst, measure.share_of_bound(got, wanted, bound))
        if case.options.get("ema_decay") is not None:
            for got, wanted, bound in averages(case, step, before, after, weights):
                worst = max(worst, measure.share_of_bound(got, wanted, bound))
        if case.options.get("master_weights") == "split" and dtype == "bfloat16":
            rounded = [halves_of(weight)[0] for weight in after.weights]
        else:
            _, rounded = as_tensors(after.weights, dtype)  # exact without master weights
        if not all(map(np.array_equal, rounded, after.parameters)):
            return float("inf")
    return worst


# --- nn.Adam -----------------------------------------------------------------------------------


class TheirStep(NamedTuple):
    """One step of `nn.Adam`: snapshots around it, and the gradients."""

    before: Snapshot
    after: Snapshot
    tensors: tuple
    fed: list[np.ndarray]


class TheirRun(NamedTuple):
    """A run of `nn.Adam`."""

    case: Case  # the case with epsilon-hat, which nn.Adam computes
    steps: list[TheirStep]  # its steps; empty if it could not run
    shapes: tuple  # of the parameters that it could run with
    names: list[str]  # of its parameters, in its order
    share: float  # its own distance to the reference, as a share of the bound on its own roundings
    # The share of elements for which there is no bound: in float16 a second moment can vanish, and
    # epsilon with it.
    unbounded: float
    error: Optional[str]  # the reason why it could not run, or None


def run_nn_adam(case: Case, dtype: str) -> TheirRun:
    """Makes `STEPS` steps with `nn.Adam`."""
    case = with_epsilon_hat(case)
    for shapes in SHAPE_SETS:
        try:
            optimizer = make_nn_adam(case, make_parameters(shapes, dtype))
            made = _steps_of_nn_adam(case, dtype, optimizer)
        except Exception as failure:  # the matrix reports it
            error = shortened(failure)
            continue
        names = [parameter.name for parameter in optimizer.parameters]
        worst, unbounded = 0.0, []
        for step, (before, after, _, fed) in enumerate(made):
            expected = exact_step(case, names, step, before, fed, dtype, nn_adam_arithmetic)
            for got, wanted, bound in compared(after, expected):
                worst = max(worst, measure.share_of_bound(got, wanted, bound))
                unbounded.append(np.isinf(bound).reshape(-1))
        without_bound = float(np.mean(np.concatenate(unbounded)))
        return TheirRun(case, made, shapes, names, worst, without_bound, None)
    return TheirRun(case, [], (), [], 0.0, 0.0, error)


def _steps_of_nn_adam(case, dtype, optimizer):
    shapes = [parameter.shape for parameter in optimizer.parameters]
    scale = case.loss_scale
    made = []
    # Away from 0: squares of small gradients vanish in float16, where nothing could be compared.
    for step, arrays in enumerate(gradients(shapes, STEPS, scale, least=0.5)):
        tensors, fed = as_tensors(arrays, dtype)
        before = snapshot(optimizer)
        optimizer(tensors)
        after = snapshot(optimizer)
        if not all(np.all(np.isfinite(x)) for part in after[:3] for x in part):
            raise ArithmeticError(f"NaN or infinity in step {step + 1}")
        made.append(TheirStep(before, after, tensors, fed))
    return made


def distance_to_nn_adam(theirs: TheirRun, dtype: str, options: dict) -> float:
    """The distance of an optimizer of ours to `nn.Adam` after each step from the same state.

    The options are its backend and layout. Returns the largest distance of any element as a share
    of both roundings' bounds.
    """
    case, names = theirs.case, theirs.names
    optimizer = make_optimizer(case, make_parameters(theirs.shapes, dtype), **options)
    both = functools.partial(our_arithmetic, optimizer.backend), nn_adam_arithmetic
    worst = 0.0
    for step, (before, after, tensors, fed) in enumerate(theirs.steps):
        put(optimizer, before, step)
        optimizer(tensors)
        ours = snapshot(optimizer)
        our_steps, their_steps = (
            exact_step(case, names, step, before, fed, dtype, arithmetic) for arithmetic in both
        )
        for (got, _, bound), (wanted, _, their_bound) in zip(
            compared(ours, our_steps), compared(after, their_steps)
        ):
            worst = max(worst, measure.share_of_bound(got, wanted, bound + their_bound))
    return worst


def shortened(error: Exception) -> str:
    """The type and the first line of an error, in at most 160 characters."""
    text = targets.one_line(error)
    return text if len(text) <= 160 else text[:157] + "..."
