"""One cell of the acceptance matrix: makes an optimizer of a case, runs it, judges its steps."""

from __future__ import annotations

from typing import List, NamedTuple, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

import ms_adam
from ms_adam import reference
from ms_adam.compat import bfloat16
from ms_adam.lab.measure import UNIT, Arithmetic, step_bounds
from ms_adam.lab.studies.matrix.cases import (
    SHAPES,
    PerStep,
    gradients,
    reference_for,
    with_epsilon_hat,
)
from ms_adam.scalars import scalar_dtype
from ms_adam.state import on_host, write

STEPS = 4  # as many as the table's schedules and sizes of gradients have at least

# Some kernels refuse shape (), and nn.Adam refuses empty tensors: then without these.
SHAPE_SETS = (
    SHAPES,
    tuple(shape for shape in SHAPES if 0 not in shape),
    tuple(shape for shape in SHAPES if shape != ()),
    tuple(shape for shape in SHAPES if shape != () and 0 not in shape),
)


# --- optimizers of cases -----------------------------------------------------------------------


class TableRate(LearningRateSchedule):
    """A learning rate schedule that looks its values up."""

    def __init__(self, values):
        super().__init__()
        self.table = Tensor(values, ms.float32)

    def construct(self, global_step):
        return self.table[global_step].reshape(())


class TableDecay(nn.Cell):
    """The same for weight decay, which is a plain Cell."""

    def __init__(self, values):
        super().__init__()
        self.table = Tensor(values, ms.float32)

    def construct(self, global_step):
        return self.table[global_step].reshape(())


def make_parameters(shapes, dtype, seed=1):
    """Parameters whose elements are of sizes 1, 1e-3 and 0 in turn.

    A weight of size 1 hides an error of the update below its own rounding, 6e-8; beside a weight
    that is 0 the update's last digits show.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([1.0, 1e-3, 0.0])
    parameters = []
    for i, shape in enumerate(shapes):
        values = rng.standard_normal(shape) * np.resize(np.roll(sizes, i), shape)
        parameters.append(Parameter(Tensor(values, getattr(ms, dtype)), name=f"layer{i}.weight"))
    return parameters


def make_optimizer(case, parameters, **more):
    """The optimizer of ours that a case describes, with further options."""
    return _make(getattr(ms_adam, case.optimizer), case, {**case.options, **more}, parameters)


def make_nn_adam(case, parameters):
    """`nn.Adam` for a case; its one formula has epsilon-hat.

    Raises:
        LookupError: If it has nothing of the kind.
    """
    if case.optimizer != "Adam":
        raise LookupError("nn.Adam has no decoupled weight decay")
    options = {name: value for name, value in case.options.items() if name != "epsilon_hat"}
    return _make(nn.Adam, case, options, parameters)


def _make(optimizer, case, options, parameters):
    options = {name: _as_mindspore(name, value) for name, value in options.items()}
    if not case.groups:
        return optimizer(parameters, **options)
    count = len(case.groups)
    groups = [
        {
            "params": parameters[i::count],
            **{name: _as_mindspore(name, value) for name, value in group.items()},
        }
        for i, group in enumerate(case.groups)
    ]
    if case.reordered:
        groups.append({"order_params": parameters[::-1]})
    return optimizer(groups, **options)


def _as_mindspore(name, value):
    if not isinstance(value, PerStep):
        return value
    if value.kind == "list":
        return list(value.values)
    if value.kind == "tensor":
        return Tensor(value.values, ms.float32)
    return (TableDecay if name == "weight_decay" else TableRate)(value.values)


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


# --- what an optimizer holds -------------------------------------------------------------------


class Snapshot(NamedTuple):
    """Lists of float64 arrays, one for each parameter in the optimizer's order.

    Attributes:
        weights: what the update acts on: the parameters or their master copies.
        moment1, moment2: the moments.
        vhat: the largest second moments, or None.
        parameters: the parameters.
    """

    weights: List[np.ndarray]
    moment1: List[np.ndarray]
    moment2: List[np.ndarray]
    vhat: Optional[List[np.ndarray]]
    parameters: List[np.ndarray]


def snapshot(optimizer):
    """The `Snapshot` of an optimizer of ours, of any layout, or of `nn.Adam`."""

    def moments(prefix):
        buffers = [to_numpy(buffer) for buffer in getattr(optimizer, prefix)]
        if not hasattr(optimizer, "layout"):
            return buffers
        by_dtype = {
            str(buffer.dtype).lower(): array
            for buffer, array in zip(getattr(optimizer, prefix), buffers)
        }
        split = optimizer.layout.split(prefix, by_dtype)
        return [split[f"{prefix}.{parameter.name}"] for parameter in optimizer.parameters]

    weights = getattr(optimizer, "master_weights", optimizer.parameters)
    return Snapshot(
        [to_numpy(weight) for weight in weights],
        moments("moment1"),
        moments("moment2"),
        moments("vhat") if hasattr(optimizer, "vhat") else None,
        [to_numpy(parameter) for parameter in optimizer.parameters],
    )


def put(optimizer, values, step):
    """Sets weights, moments and the count of an optimizer of ours to those of a snapshot."""
    host = on_host(optimizer)

    def assign(buffer, array):
        write(buffer, array, id(buffer) in host)

    for parameter, weight in zip(optimizer.parameters, values.parameters):
        assign(parameter, weight)
    for prefix in ("moment1", "moment2", "vhat"):
        for i, buffer in enumerate(getattr(optimizer, prefix, ())):
            if hasattr(optimizer, "layout"):
                array = np.zeros(buffer.shape)
                for moment, dtype, offset in zip(
                    getattr(values, prefix), optimizer.layout.dtypes, optimizer.layout.offsets
                ):
                    if dtype == str(buffer.dtype).lower():
                        array[offset : offset + moment.size] = moment.reshape(-1)
                assign(buffer, array)
            else:
                assign(buffer, getattr(values, prefix)[i])
    assign(optimizer.global_step, [step])
    assign(optimizer.update_count, [step])
    assign(optimizer.beta1_power, optimizer.formula.beta1**step)
    assign(optimizer.beta2_power, optimizer.formula.beta2**step)
    assign(optimizer.counted_power, optimizer.formula.beta2**step)


def to_numpy(tensor):
    """A float64 array of a tensor of any float dtype."""
    if tensor.dtype == bfloat16:
        tensor = tensor.astype(ms.float32)
    return np.array(tensor.asnumpy(), dtype=np.float64)  # a copy: asnumpy() shares memory


def as_tensors(arrays, dtype):
    """Tensors of a dtype, and the float64 arrays of what they hold."""
    tensors = tuple(Tensor(array, getattr(ms, dtype)) for array in arrays)
    return tensors, [to_numpy(tensor) for tensor in tensors]


def adam_state(step, values, i):
    """The reference's state of parameter i, from a snapshot."""
    vhat = None if values.vhat is None else values.vhat[i]
    return reference.AdamState(step, values.moment1[i], values.moment2[i], vhat)


# --- how steps are judged ----------------------------------------------------------------------


def our_arithmetic(backend, adam, dtype):
    """How a backend of ours computes; dtype is that of its weights.

    Moments are float32, or float64 for float64. MindSpore's kernel takes betas in float32.
    """
    betas = adam.beta1, adam.beta2
    if backend == "primitive":
        betas = tuple(float(np.float32(beta)) for beta in betas)
    return Arithmetic("float64" if dtype == "float64" else "float32", *betas)


def nn_adam_arithmetic(adam, dtype):
    """How `nn.Adam` computes: moments have the parameters' dtype, numbers are float32."""
    return Arithmetic(
        dtype, float(np.float32(adam.beta1)), float(np.float32(adam.beta2)), float32_scalars=True
    )


class Expected(NamedTuple):
    """What the reference makes of one parameter's step; moment1, moment2 and weight."""

    values: tuple
    bounds: tuple


def exact_step(case, names, step, before, fed, dtype, arithmetic_of, adam_of=reference_for):
    """One step of the reference from the state that an optimizer had, and bounds around it.

    Args:
        case: a `Case`.
        names: of the parameters, as `make_parameters` gives them.
        step: steps already made.
        before: a `Snapshot`.
        fed: the gradients, exact.
        dtype: of the weights.
        arithmetic_of: function of a `reference.Adam` that returns an `Arithmetic`.
        adam_of: function of (case, parameter, step) that returns the formula to be expected; bounds
            are always those of the case itself.

    Returns:
        A list of `Expected`, one for each parameter.
    """
    expected = []
    errors = [0.0] * len(fed)
    max_norm = case.options.get("max_grad_norm")
    if max_norm is not None:
        # Clipping acts on unscaled gradients. N squares and their sum, root, quotient and products
        # in the dtype of scalars, here and in the reference.
        loss_scale = case.options.get("loss_scale", 1.0)
        u = UNIT[str(scalar_dtype(ms.get_context("device_target"))).lower()]
        count = sum(gradient.size for gradient in fed)
        clipped = reference.clip_by_global_norm([g / loss_scale for g in fed], max_norm)
        errors = [(count + 8) * u * np.abs(g) for g in clipped]
        fed = [g * loss_scale for g in clipped]
    for i, (name, gradient) in enumerate(zip(names, fed)):
        number = int(name[len("layer") :].split(".")[0])
        right, adam = reference_for(case, number, step), adam_of(case, number, step)
        start = adam_state(step, before, i)
        weight, state = adam.step(before.weights[i], gradient, start)
        bounds = step_bounds(
            right,
            gradient,
            start,
            state,
            before.weights[i],
            weight,
            dtype=dtype,
            arithmetic=arithmetic_of(right),
            gradient_error=errors[i],
        )
        expected.append(Expected((state.moment1, state.moment2, weight), bounds))
    return expected


def share_of_bound(got, want, bound):
    """The largest distance of any element, as a share of its bound; infinite for NaN.

    An infinite bound allows everything.
    """
    if got.shape != want.shape:
        raise AssertionError(f"shape {got.shape} in place of {want.shape}")
    if not got.size:
        return 0.0
    ratio = np.abs(got - want) / bound
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    return float(np.max(np.where(np.isinf(bound), 0.0, ratio)))


def tensors_of(values, i):
    """What is judged of parameter i: moment1, moment2, weight."""
    return values.moment1[i], values.moment2[i], values.weights[i]


def weight_dtype(case, dtype):
    """What the update acts on."""
    return "float32" if case.options.get("master_weights") and dtype != "float64" else dtype


def excess(
    case, dtype, optimizer, *, compiled=False, scale=1.0, steps=STEPS, adam_of=reference_for
):
    """The largest error of any element in any step of an optimizer of ours, by its bound.

    Each step of the reference starts from the state that the optimizer really left, so that a
    bound for one step holds, and errors of several steps do not hide each other.

    Args:
        case, dtype: what the optimizer was made of.
        optimizer: an optimizer of ours.
        compiled: whether a graph calls it, and not Python.
        scale: standard deviation of the gradients before the loss scale, or one for each step.
        steps: how many to make.
        adam_of: as in `exact_step`.

    Returns:
        A share of the bound: up to 1 the optimizer held.
    """
    worst = 0.0
    acts_on = weight_dtype(case, dtype)
    shapes = [parameter.shape for parameter in optimizer.parameters]
    names = [parameter.name for parameter in optimizer.parameters]
    scale = np.multiply(scale, case.options.get("loss_scale", 1.0))
    make_step = CompiledStep(optimizer) if compiled else optimizer
    for step, arrays in enumerate(gradients(shapes, steps, scale)):
        tensors, fed = as_tensors(arrays, dtype)
        before = snapshot(optimizer)
        make_step(tensors)
        after = snapshot(optimizer)
        expected = exact_step(
            case,
            names,
            step,
            before,
            fed,
            acts_on,
            lambda adam: our_arithmetic(optimizer.backend, adam, acts_on),
            adam_of,
        )
        for i, (values, bounds) in enumerate(expected):
            for got, want, bound in zip(tensors_of(after, i), values, bounds):
                if not (np.all(np.isfinite(want)) and np.all(np.isfinite(bound))):
                    raise AssertionError(f"no finite bound for {names[i]} in step {step + 1}")
                worst = max(worst, share_of_bound(got, want, bound))
        _, rounded = as_tensors(after.weights, dtype)  # exact where there are no master weights
        if not all(map(np.array_equal, rounded, after.parameters)):
            return float("inf")
    return worst


# --- nn.Adam -----------------------------------------------------------------------------------


class TheirStep(NamedTuple):
    """One step of `nn.Adam`: snapshots around it, and the gradients."""

    before: Snapshot
    after: Snapshot
    tensors: tuple
    fed: List[np.ndarray]


class TheirRun(NamedTuple):
    """What `nn.Adam` made of a case.

    Attributes:
        case: the case with epsilon-hat, which is what nn.Adam computes.
        steps: list of `TheirStep`; empty if it could not run.
        shapes: of the parameters that it could run with.
        names: of its parameters, in its order.
        share: its own distance to the reference, as a share of the bound on its own roundings.
        unbounded: the share of elements for which there is no bound: in float16 a second moment can
            vanish, and epsilon with it.
        error: why it could not run, or None.
    """

    case: object
    steps: List[TheirStep]
    shapes: tuple
    names: List[str]
    share: float
    unbounded: float
    error: Optional[str]


def run_nn_adam(case, dtype, steps=STEPS):
    """Makes some steps with `nn.Adam`; a `TheirRun`."""
    case = with_epsilon_hat(case)
    for shapes in SHAPE_SETS:
        try:
            optimizer = make_nn_adam(case, make_parameters(shapes, dtype))
            made = _steps_of_nn_adam(case, dtype, optimizer, steps)
        except Exception as failure:  # whatever it cannot do is what the matrix reports
            error = shortened(failure)
            continue
        names = [parameter.name for parameter in optimizer.parameters]
        return TheirRun(
            case, made, shapes, names, *_excess_of_nn_adam(case, dtype, names, made), None
        )
    return TheirRun(case, [], (), [], 0.0, 0.0, error)


def _steps_of_nn_adam(case, dtype, optimizer, steps):
    shapes = [parameter.shape for parameter in optimizer.parameters]
    scale = case.options.get("loss_scale", 1.0)
    made = []
    # Away from 0: squares of small gradients vanish in float16, where nothing could be compared.
    for step, arrays in enumerate(gradients(shapes, steps, scale, least=0.5)):
        tensors, fed = as_tensors(arrays, dtype)
        before = snapshot(optimizer)
        optimizer(tensors)
        after = snapshot(optimizer)
        for part in (after.weights, after.moment1, after.moment2):
            if not all(np.all(np.isfinite(array)) for array in part):
                raise ArithmeticError(f"NaN or infinity in step {step + 1}")
        made.append(TheirStep(before, after, tensors, fed))
    return made


def _excess_of_nn_adam(case, dtype, names, made):
    worst, unbounded = 0.0, []
    for step, (before, after, _, fed) in enumerate(made):
        expected = exact_step(
            case, names, step, before, fed, dtype, lambda adam: nn_adam_arithmetic(adam, dtype)
        )
        for i, (values, bounds) in enumerate(expected):
            for got, want, bound in zip(tensors_of(after, i), values, bounds):
                worst = max(worst, share_of_bound(got, want, bound))
                unbounded.append(np.isinf(bound).reshape(-1))
    return worst, float(np.mean(np.concatenate(unbounded)))


def distance_to_nn_adam(theirs, dtype, options):
    """How far an optimizer of ours is from `nn.Adam` after each step from the same state.

    Args:
        theirs: a `TheirRun`.
        dtype: of the parameters.
        options: of the optimizer: backend and layout.

    Returns:
        The largest distance of any element as a share of both roundings' bounds.
    """
    case = theirs.case
    parameters = make_parameters(theirs.shapes, dtype)
    optimizer = make_optimizer(case, parameters, **options)
    worst = 0.0
    for step, (before, after, tensors, fed) in enumerate(theirs.steps):
        put(optimizer, before, step)
        optimizer(tensors)
        ours = snapshot(optimizer)
        our_steps, their_steps = (
            exact_step(case, theirs.names, step, before, fed, dtype, arithmetic)
            for arithmetic in (
                lambda adam: our_arithmetic(optimizer.backend, adam, dtype),
                lambda adam: nn_adam_arithmetic(adam, dtype),
            )
        )
        for i, (our, their) in enumerate(zip(our_steps, their_steps)):
            for got, want, our_bound, their_bound in zip(
                tensors_of(ours, i), tensors_of(after, i), our.bounds, their.bounds
            ):
                worst = max(worst, share_of_bound(got, want, our_bound + their_bound))
    return worst


def shortened(error, length=160):
    """The first line of an error, with its type."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= length else text[: length - 3] + "..."
