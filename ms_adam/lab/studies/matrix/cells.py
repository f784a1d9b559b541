"""One cell of the acceptance matrix: makes an optimizer of a case, runs it, judges its steps.

Python 3.7 syntax: the tests of the optimizer on MindSpore 2.0.0 import this module.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
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
from ms_adam.lab.studies.matrix.cases import SHAPES, Case, PerStep, Scaler, gradients, reference_for
from ms_adam.narrow import halves_of
from ms_adam.scalars import scalar_dtype
from ms_adam.state import write

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


def make_parameters(shapes, dtype: Union[str, Sequence[str]], seed: int = 1) -> list:
    """Parameters of a dtype, or of one each, whose elements are of sizes 1, 1e-3 and 0 in turn.

    A weight of size 1 hides an error of the update below its own rounding, 6e-8; beside a weight
    that is 0 the update's last digits show.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([1.0, 1e-3, 0.0])
    parameters = []
    for i, (shape, kind) in enumerate(zip(shapes, np.broadcast_to(dtype, len(shapes)))):
        values = rng.standard_normal(shape) * np.resize(np.roll(sizes, i), shape)
        parameters.append(Parameter(Tensor(values, getattr(ms, kind)), name=f"layer{i}.weight"))
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
    parameters = list(map(to_numpy, optimizer.parameters))
    if hasattr(optimizer, "execution"):
        names = optimizer.check.names
        entries = {name: slot.rows for name, slot in slots(optimizer).items()}
    else:
        names = [parameter.name for parameter in optimizer.parameters]
        entries = {it.name: to_numpy(it) for it in optimizer.get_parameters()}

    def of_each(kind, instead):
        rows = (entries.get(f"{kind}.{name}", other) for name, other in zip(names, instead))
        pairs = [(array, it.shape) for array, it in zip(rows, parameters) if array is not None]
        return [np.array(array, np.float64).reshape(shape) for array, shape in pairs] or None

    nothing = [None] * len(names)
    moments = (of_each(kind, nothing) for kind in ("moment1", "moment2", "vhat"))
    weights = of_each("master_weight", parameters)
    return Snapshot(weights, *moments, parameters, of_each("ema", nothing))


def put(optimizer: nn.Optimizer, values: Snapshot, step: int) -> None:
    """Sets weights, moments and the count of an optimizer of ours to those of a snapshot."""
    for parameter, weight in zip(optimizer.parameters, values.parameters):
        write(parameter, weight, host=False)
    given = {
        f"{kind}.{name}": array
        for kind in ("moment1", "moment2", "vhat")
        for name, array in zip(optimizer.check.names, getattr(values, kind) or ())
    }
    kept = slots(optimizer)
    moments = {name: array.astype(kept[name].rows.dtype) for name, array in given.items()}
    ms_adam.load_state(optimizer, moments, step=step)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A float64 array of a tensor of any float dtype."""
    return np.array(targets.to_numpy(tensor), np.float64)


def as_tensors(arrays, dtype: Union[str, Sequence[str]]) -> tuple:
    """Tensors of a dtype, or of one each, and the float64 arrays of their values."""
    kinds = np.broadcast_to(dtype, len(arrays))
    tensors = tuple(Tensor(array, getattr(ms, kind)) for array, kind in zip(arrays, kinds))
    return tensors, [to_numpy(tensor) for tensor in tensors]


# --- judging steps -----------------------------------------------------------------------------

# Takes the dtype of a weight and a `reference.Adam`.
ArithmeticOf = Callable[[str, reference.Adam], measure.Arithmetic]


def our_arithmetic(backend: str, dtype: str, adam: reference.Adam) -> measure.Arithmetic:
    """The arithmetic of a backend of ours: moments are float32, or float64 for float64."""
    rate = BACKENDS[backend].capabilities.kernel_rate
    moments = "float64" if dtype == "float64" else "float32"
    return measure.Arithmetic(moments, rate(adam.beta1), rate(adam.beta2))


def nn_adam_arithmetic(dtype: str, adam: reference.Adam) -> measure.Arithmetic:
    """The arithmetic of `nn.Adam`: moments have the parameters' dtype, numbers are float32."""
    betas = (float(np.float32(beta)) for beta in (adam.beta1, adam.beta2))
    return measure.Arithmetic(dtype, *betas, float32_scalars=True)


class Step(NamedTuple):
    """One step of an optimizer."""

    number: int  # of steps before it
    parameters: Sequence[int]  # their numbers, in the optimizer's order
    dtypes: Sequence[str]  # of each weight
    before: Snapshot
    after: Snapshot
    fed: list[np.ndarray]  # the exact gradients
    # Bounds on the errors of the unscaled gradients that come before the step, an array for each.
    unsure: Optional[list[np.ndarray]] = None


def numbers_of(parameters) -> list[int]:
    """The numbers that `make_parameters` gave."""
    return [int(parameter.name[len("layer") :].split(".")[0]) for parameter in parameters]


def compared(
    case: Case, step: Step, arithmetic: ArithmeticOf, adam_of=reference_for
) -> Iterator[tuple]:
    """Holds a step to that of the reference from the same state.

    Yields (got, wanted, bound) of moments, maximum and weight of each parameter. `arithmetic` is
    that of the implementation; `adam_of` takes (case, parameter, step) and returns the expected
    formula, but bounds are always those of the case itself.
    """
    number, before, after, fed = step.number, step.before, step.after, step.fed
    errors = step.unsure or [np.zeros(g.shape) for g in fed]
    max_norm = case.options.get("max_grad_norm")
    if max_norm is not None:
        loss_scale = case.loss_scale  # clipping acts on unscaled gradients
        dtype_of_norm = str(scalar_dtype(ms.get_context("device_target"))).lower()
        unscaled = [g / loss_scale for g in fed]
        fed, errors = measure.clipped(unscaled, max_norm, errors, dtype_of_norm)
        fed = [g * loss_scale for g in fed]
    state_dtype = case.options.get("state_dtype", "float32")
    for i, (parameter, gradient, dtype) in enumerate(zip(step.parameters, fed, step.dtypes)):
        right, adam = reference_for(case, parameter, number), adam_of(case, parameter, number)
        vhat = None if before.vhat is None else before.vhat[i]
        start = reference.AdamState(number, before.moment1[i], before.moment2[i], vhat)
        weight, state = adam.step(before.weights[i], gradient, start)
        error1, error2, error_weight = measure.step_bounds(
            right,
            gradient,
            start,
            state,
            before.weights[i],
            weight,
            dtype=dtype,
            arithmetic=arithmetic(dtype, right),
            gradient_error=errors[i],
        )
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


def largest_share(comparisons: Iterable[tuple]) -> float:
    """The largest distance of any element, as a share of its bound, of (got, wanted, bound)."""
    return max((measure.share_of_bound(*comparison) for comparison in comparisons), default=0.0)


def averages(case: Case, step: Step) -> Iterator[tuple]:
    """Yields (got, wanted, bound) of the average of each weight, from what is averaged."""
    decay, debias = case.options["ema_decay"], case.options.get("ema_debias", True)
    average, number = reference.Average(decay, debias), step.number
    rate = (1.0 - decay) / (1.0 - decay ** (number + 1)) if debias else 1.0 - decay
    before, after = step.before, step.after
    for old, start, weight, got, dtype in zip(
        before.averages, before.weights, after.weights, after.averages, step.dtypes
    ):
        if number == 0:
            sum_before = average.start(start)
        else:
            sum_before = old * (1.0 - decay**number) if debias else old
        wanted = average.value(average.update(sum_before, weight), number + 1)
        dtype = "float64" if dtype == "float64" else "float32"
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


def spoiled(arrays: list[np.ndarray], value: float) -> list[np.ndarray]:
    """Gradients of which the last element is NaN or infinite."""
    arrays = [np.array(array) for array in arrays]
    last = [array for array in arrays if array.size][-1]
    last.reshape(-1)[-1] = value
    return arrays


def excess(
    case: Case,
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
        optimizer: One of ours.
        compiled: Whether a graph calls it, and not Python.
        scale: Standard deviation of the gradients before the loss scale, or one for each step.
        adam_of: As in `compared`.

    Returns:
        A share of the bound: up to 1 the optimizer held.
    """
    worst = 0.0
    parameters = numbers_of(optimizer.parameters)
    shapes = [parameter.shape for parameter in optimizer.parameters]
    given = [targets.dtype_name(parameter) for parameter in optimizer.parameters]
    masters = case.options.get("master_weights", False)
    dtypes = ["float64" if it == "float64" else "float32" for it in given] if masters else given
    arithmetic = functools.partial(our_arithmetic, optimizer.backend)
    calls = case.options.get("accumulate_steps", 1)
    scales = np.repeat(np.broadcast_to(np.multiply(scale, case.loss_scale), steps), calls)
    drawn = iter(gradients(shapes, steps * calls, scales))
    make_step = CompiledStep(optimizer) if compiled else optimizer
    scaler = _ScalerWatch(case, optimizer)
    for number in range(steps):
        before, taken = snapshot(optimizer), []
        for call, arrays in enumerate(itertools.islice(drawn, calls), 1):
            if case.skips and number % 2 == 0:
                make_step(as_tensors(spoiled(arrays, np.nan if number == 0 else -np.inf), given)[0])
                scaler.check(finite=False)
                np.testing.assert_equal(snapshot(optimizer), before, "by a skipped call")
            tensors, fed = as_tensors([scaler.scale * array for array in arrays], given)
            taken.append([gradient / scaler.scale for gradient in fed])
            make_step(tensors)
            scaler.check(finite=True)
            if call < calls:
                np.testing.assert_equal(snapshot(optimizer), before, "by an accumulating call")
        if int(optimizer.update_count) != number + 1:
            raise AssertionError(f"{int(optimizer.update_count)} updates counted of {number + 1}")
        fed, unsure = taken[0], None
        if calls > 1:
            fed, unsure = reference.mean_of_calls(taken), _rounding_of_mean(case, taken, dtypes)
        step = Step(number, parameters, dtypes, before, snapshot(optimizer), fed, unsure)
        results = list(compared(case, step, arithmetic, adam_of))
        if not all(np.isfinite(array).all() for result in results for array in result[1:]):
            raise AssertionError(f"no finite bound in step {number + 1}")
        if case.options.get("ema_decay") is not None:
            results += averages(case, step)
        worst = max(worst, largest_share(results))
        if not _are_rounded(step.after, given, halves=masters == "split"):
            return float("inf")
    return worst


def _rounding_of_mean(case, calls, dtypes):
    """Bounds on the errors of the mean gradient of several calls.

    Factor, product, sums and the mean: each of n calls is rounded n + 2 times.
    """
    sizes = reference.mean_of_calls([[np.abs(gradient) for gradient in call] for call in calls])
    u = (len(calls) + 2) / case.loss_scale
    units = [2 * measure.UNIT[it] if it == "float64" else measure.UNIT["float32"] for it in dtypes]
    return [u * unit * size for unit, size in zip(units, sizes)]


def _are_rounded(after, dtypes, halves):
    """Whether the parameters are the weights, rounded; without master weights, the same."""
    _, rounded = as_tensors(after.weights, dtypes)
    if halves:
        upper = [halves_of(weight)[0] for weight in after.weights]
        rounded = [u if it == "bfloat16" else r for it, u, r in zip(dtypes, upper, rounded)]
    return all(map(np.array_equal, rounded, after.parameters))


# --- nn.Adam -----------------------------------------------------------------------------------


class TheirRun(NamedTuple):
    """A run of `nn.Adam`."""

    case: Case  # the case with epsilon-hat, which nn.Adam computes
    error: Optional[str] = None  # the reason why it could not run, or None
    steps: Sequence[Step] = ()
    shapes: tuple = ()  # of the parameters that it could run with
    # Its own distance to the reference, as a share of the bound on its own roundings.
    share: float = 0.0
    # The share of elements for which there is no bound: in float16 a second moment can vanish, and
    # epsilon with it.
    unbounded: float = 0.0


def run_nn_adam(case: Case, dtype: str) -> TheirRun:
    """Makes `STEPS` steps with `nn.Adam`."""
    case = case._replace(options={**case.options, "epsilon_hat": True})
    for shapes in SHAPE_SETS:
        try:
            optimizer = make_nn_adam(case, make_parameters(shapes, dtype))
            steps = list(_steps_of_nn_adam(case, dtype, optimizer))
        except Exception as failure:  # the matrix reports it
            error = shortened(failure)
            continue
        results = [it for step in steps for it in compared(case, step, nn_adam_arithmetic)]
        unbounded = np.concatenate([np.isinf(bound).reshape(-1) for _, _, bound in results])
        share = largest_share(results)
        return TheirRun(case, None, steps, shapes, share, float(np.mean(unbounded)))
    return TheirRun(case, error)


def _steps_of_nn_adam(case, dtype, optimizer):
    parameters = numbers_of(optimizer.parameters)
    shapes = [parameter.shape for parameter in optimizer.parameters]
    # Away from 0: squares of small gradients vanish in float16, where nothing could be compared.
    drawn = gradients(shapes, STEPS, case.loss_scale, least=0.5)
    for number, arrays in enumerate(drawn):
        tensors, fed = as_tensors(arrays, dtype)
        before = snapshot(optimizer)
        optimizer(tensors)
        after = snapshot(optimizer)
        if not all(np.all(np.isfinite(x)) for part in after[:3] for x in part):
            raise ArithmeticError(f"NaN or infinity in step {number + 1}")
        yield Step(number, parameters, [dtype] * len(shapes), before, after, fed)


def distance_to_nn_adam(theirs: TheirRun, dtype: str, options: dict) -> float:
    """The distance of an optimizer of ours to `nn.Adam` after each step from the same state.

    The options are its backend and layout. Returns the largest distance of any element as a share
    of both roundings' bounds.
    """
    case = theirs.case
    optimizer = make_optimizer(case, make_parameters(theirs.shapes, dtype), **options)
    our = functools.partial(our_arithmetic, optimizer.backend)
    worst = 0.0
    for step in theirs.steps:
        put(optimizer, step.before, step.number)
        optimizer(as_tensors(step.fed, dtype)[0])
        own = step._replace(after=snapshot(optimizer))
        pairs = zip(compared(case, own, our), compared(case, step, nn_adam_arithmetic))
        both = ((got, wanted, bound + more) for (got, _, bound), (wanted, _, more) in pairs)
        worst = max(worst, largest_share(both))
    return worst


def shortened(error: Exception) -> str:
    """The type and the first line of an error, in at most 160 characters."""
    text = targets.one_line(error)
    return text if len(text) <= 160 else text[:157] + "..."
