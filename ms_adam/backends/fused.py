"""One launch of a kernel of our own for all weights: the fastest backend on the CPU."""

import ctypes
import functools
import math
import os
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import mindspore as ms
from mindspore import ParameterTuple, Tensor, nn, ops

from ms_adam.backends import toolchain
from ms_adam.backends.capabilities import Capabilities
from ms_adam.backends.launch import AVAILABLE, Launcher, contiguous, number_of, settle
from ms_adam.options import Execution, Formula
from ms_adam.state import WeightKind

SOURCE = Path(__file__).with_name("kernel")
FUNCTION, FUNCTION_BY_ADDRESS = "MsAdamStep", "MsAdamStepByAddress"
ACCUMULATE_BY_ADDRESS = "MsAdamAccumulateByAddress"

# The order of these in the launch.
_NUMBERS = (
    "update_count",
    "beta1_power",
    "beta2_power",
    "counted_power",
    "grad_norm",
    "skipped",
    "skipped_in_row",
    "scale_value",
    "scale_counter",
    "accumulated",
    "ema_weight",
)
_BITS = {"float32": 0, "bfloat16": 16, "int8": 8}
# The kernel's results; `enum Failure` there.
_UNKNOWN_ROW = 4
_REFUSALS = {
    1: "they are not those that the optimizer was made for",
    2: "a gradient does not fit its parameter",
    3: "the state does not fit the parameters",
}


class Fused(nn.Cell):
    """Runs on the CPU where a C++ compiler is found, for all dtypes and options.

    All gradients enter the launch, in one order, also those of parameters that another rank updates
    (`shard_state`). The graphs of all ranks are then alike, and MindSpore exchanges gradients in
    the same order on each.

    The cost is memory traffic, and 2 us for each tensor that enters the launch. So scalars are
    computed in the kernel, and flat state leaves two tensors for each weight.

    There are two ways to launch: `construct`, compiled into a step, and `now`, by address.

    Inputs and outputs are those of `OperatorBackend`.
    """

    capabilities = Capabilities(
        kernel="the kernel",
        devices=("CPU",),
        flat_state=True,
        narrow_state=("bfloat16", "int8"),
        halves=True,
        divides_rows=True,
        by_address=AVAILABLE,
        reads_formulas=True,
    )

    @classmethod
    def obstacle(
        cls,
        formula: Formula,
        execution: Execution,
        weights: Sequence[WeightKind],
        device_target: str,
    ) -> Optional[str]:
        """Returns why this backend cannot run; None if it can."""
        obstacle = cls.capabilities.obstacle(formula, execution, weights, device_target)
        return kernel_library()[1] if obstacle is None else obstacle

    def __init__(self, formula, execution, parameters, state, groups, device_target):
        super().__init__(auto_prefix=False)
        self.weights = weights = state.weights
        self.rounded = ParameterTuple(
            tuple(
                parameter
                for parameter, weight in zip(parameters, weights)
                if parameter is not weight
            )
        )
        self.moments = ParameterTuple(
            sum(state.moments_here().values(), ()) + tuple(state.accumulators)
        )
        for moment in self.moments:  # `no_init_parameters` leaves clones of parameters without data
            if moment.has_init:
                moment.init_data()
        # AdaMax has one power; it also takes the place of the second.
        numbers = {"beta2_power": state.numbers["beta1_power"], **state.numbers}
        names = [name for name in _NUMBERS if name in numbers]
        self.numbers = ParameterTuple(tuple(numbers[name] for name in names))
        self.formulas = Tensor(self.rows((formula, *groups.formulas), execution), ms.float64)
        self.plan = Tensor(_plan(parameters, state, groups), ms.int64)
        self.launch = ops.Custom(f"{kernel_library()[0]}:{FUNCTION}", [1], ms.int32, "aot")
        self.launch.add_prim_attr("side_effect_mem", True)  # it updates its inputs
        self.launcher = self.accumulating = None
        if AVAILABLE:
            self.launcher = Launcher(kernel_library()[0], FUNCTION_BY_ADDRESS)
            self.accumulating = Launcher(kernel_library()[0], ACCUMULATE_BY_ADDRESS)
        self.place_of_count = names.index("accumulated") if execution.accumulates else None
        self.accumulate_steps, self.sums = execution.accumulate_steps, len(state.accumulators)
        self.output = Tensor([0], ms.int32)  # of a launch by address

    @staticmethod
    def rows(formulas: Sequence[Formula], execution: Execution) -> List[List[float]]:
        """Returns the first input of the launch: a row for each formula."""
        return [_formula_row(formula, execution) for formula in formulas]

    def give(self, launch, global_step, rates, gradients, indices):
        """Calls `launch` with the inputs of the launch, in the order of the kernel."""
        # A sum of tuples in place of the call would take a graph three times as long to compile.
        return launch(
            self.formulas,
            self.plan,
            global_step,
            *self.numbers,
            *rates[0],
            *rates[1],
            *rates[2],
            *gradients,
            *indices,
            *self.weights,
            *self.rounded,
            *self.moments,
        )

    def construct(self, global_step, rates, gradients, gradient_dtype, indices):
        return self.give(self.launch, global_step, rates, gradients, indices)

    def now(self, global_step, rates, gradients, indices, check):
        """Makes the step at once, by address; inputs are those of `construct`.

        Args:
            check: called when shapes or dtypes are new; raises if gradients do not fit. None if
                there are no gradients, and the accumulators make the step.

        Returns:
            int, 1 if the weights were updated, else 0. In the first case the kernel has also
            increased `global_step` by 1.

        Raises:
            IndexError: If a row-sparse gradient names a row that its table lacks. The three
                arguments are the place of the gradient, the row, and how many rows there are.
            RuntimeError: If the kernel refuses the tensors for another reason.
        """
        inputs = self.give(lambda *inputs: inputs, global_step, rates, gradients, indices)
        launcher, fixed = self.launcher, len(self.moments)
        if check is not None and self.only_accumulates():
            launcher, fixed = self.accumulating, self.sums
            state = len(self.weights) + len(self.rounded) + len(self.moments)
            inputs = inputs[: len(inputs) - state] + inputs[len(inputs) - fixed :]
        tensors = contiguous((*inputs, self.output))
        launcher.describe(tensors, fixed + 1, check)
        settle()
        failure = launcher(tensors)
        if failure == _UNKNOWN_ROW:
            raise IndexError(*launcher.report[:3])
        if failure:
            raise RuntimeError(f"the kernel refuses the tensors of the step: {_REFUSALS[failure]}")
        return number_of(self.output).value

    def only_accumulates(self) -> bool:
        """Whether a call with gradients changes no weight."""
        if self.place_of_count is None:
            return False
        settle()
        return number_of(self.numbers[self.place_of_count]).value + 1 < self.accumulate_steps


def _formula_row(formula, execution):
    """Returns `struct Formula` of the kernel."""
    ema_decay = -1 if formula.ema_decay is None else formula.ema_decay
    clip = math.inf if execution.max_grad_norm is None else execution.max_grad_norm
    scaler = execution.scaler
    return [
        formula.beta1,
        formula.beta2,
        formula.eps,
        execution.loss_scale,
        clip,
        formula.epsilon_hat,
        formula.bias_correction,
        formula.nesterov,
        formula.amsgrad,
        formula.decoupled,
        formula.lazy,
        formula.maximize,
        formula.infinity_norm,
        execution.skips,
        1 if scaler is None else scaler.factor,
        -1 if scaler is None else scaler.window,
        0 if formula.averages_by_schedule else ema_decay,
        formula.ema_debias,
        execution.accumulate_steps,
        formula.averages_by_schedule,
        formula.begun,
        _BITS[execution.state_dtype],
        execution.seed,
    ]


def _plan(parameters, state, groups):
    """Returns `struct Plan` of the kernel, and a `struct Layout` for each weight."""
    weights, layout = state.weights, state.layout
    buffers = 0 if layout is None else len(state.moments["moment1"])
    offset_of = {} if layout is None else dict(zip(layout.names, layout.offsets))
    plan = [len(weights), len(groups.formulas), thread_count(), buffers]
    for i, own in enumerate(groups.owned):
        begin, size = (0, -1) if own is None else own
        plan += [
            begin,
            size,
            groups.index[i],
            groups.decayed[i],
            groups.centralized[i],
            weights[i] is not parameters[i],
            offset_of.get(parameters[i].name, 0),
        ]
    return plan


def thread_count() -> int:
    """Returns the number of threads of a step.

    OMP_NUM_THREADS, if it is set: the name that users know, though OpenMP is not used. Else one for
    each core that this process may run on. Workers of one training share the cores: mpirun gives
    their number on this machine, msrun their number in all. A worker that was bound to some of the
    cores has its share already.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if given.isdigit() and int(given) > 0:
        return int(given)
    cores = len(os.sched_getaffinity(0))
    if cores < (os.cpu_count() or 1):
        return cores
    workers = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or os.environ.get("MS_WORKER_NUM", "")
    return max(1, cores // max(1, int(workers) if workers.isdigit() else 1))


@functools.lru_cache(maxsize=None)
def kernel_library() -> Tuple[Optional[Path], Optional[str]]:
    """Returns the path of the kernel's library and None, or None and why there is none."""
    try:
        library = toolchain.build(SOURCE)
        getattr(ctypes.CDLL(str(library)), FUNCTION)
    except toolchain.BuildError as error:
        return None, str(error)
    except OSError as error:  # a directory without execution, a C++ library that is too old
        return None, f"the kernel was built and cannot be loaded: {error}"
    allowed = os.environ.get("MS_CUSTOM_AOT_WHITE_LIST")
    if allowed and os.path.realpath(allowed) not in map(str, library.resolve().parents):
        return None, (
            f"MS_CUSTOM_AOT_WHITE_LIST only allows kernels in {allowed}, and ours is "
            f"{library}; MS_ADAM_CACHE says where it is built"
        )
    if ":" in str(library):  # ops.Custom takes "file:function"
        return None, f"MindSpore takes no kernel from a path with a colon: {library}"
    return library, None
