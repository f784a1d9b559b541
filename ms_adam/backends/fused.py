"""One launch of a kernel of our own for all weights: the fastest backend on the CPU."""

import ctypes
import functools
import math
import os
from pathlib import Path

import mindspore as ms
from mindspore import ParameterTuple, Tensor, nn, ops

from ms_adam.backends import toolchain
from ms_adam.backends.launch import AVAILABLE, Launcher, contiguous, settle
from ms_adam.state import kept

SOURCE = Path(__file__).with_name("kernel")
FUNCTION, FUNCTION_BY_ADDRESS = "MsAdamStep", "MsAdamStepByAddress"

# What the kernel returns; `enum Failure` there.
_UNKNOWN_ROW = 4
_REFUSALS = {
    1: "they are not those that the optimizer was made for",
    2: "a gradient does not fit its parameter",
    3: "the state does not fit the parameters",
}


class Fused(nn.Cell):
    """Runs on the CPU where a C++ compiler is found, for all dtypes and options.

    All gradients enter the launch, in one order, also those of parameters that another rank updates
    (`shard_state`): then the graphs of all ranks are alike, and MindSpore puts the messages that
    gradients come by into the same order on each.

    What costs is memory traffic, and 2 us for each tensor that enters the launch: scalars are
    computed in the kernel, and flat state leaves two tensors for each weight.

    There are two ways to launch: `construct`, compiled into a step, and `now`, by address.

    Args:
        formula: a `Formula`.
        parameters: what is optimized; ParameterTuple.
        weights: what the update acts on: the parameters or their float32 master copies.
        state: a `State` for these weights.
        groups: a `Groups` for these weights.
        device_target: "CPU".
        offsets: for flat state: where each weight begins in the buffer of its moments' dtype, in
            elements (None if the weight is not updated here); `state` then has one buffer for each
            dtype. None if weights have moments of their own.

    Inputs and outputs are those of `OperatorBackend`.
    """

    @staticmethod
    def obstacle(formula, weights, device_target):
        """Why this backend cannot run; None if it can."""
        if device_target != "CPU":
            return f"the kernel is for the CPU, not for {device_target}"
        return kernel_library()[1]

    def __init__(self, formula, parameters, weights, state, groups, device_target, offsets=None):
        super().__init__(auto_prefix=False)
        self.weights = weights
        self.rounded = ParameterTuple(
            tuple(
                parameter
                for parameter, weight in zip(parameters, weights)
                if parameter is not weight
            )
        )
        self.moment1, self.moment2 = kept(state.moment1), kept(state.moment2)
        self.vhat = kept(state.vhat) if formula.amsgrad else ()
        self.counters = ParameterTuple(
            (state.update_count, state.beta1_power, state.beta2_power, state.counted_power)
        )
        self.norm = () if state.norm is None else ParameterTuple((state.norm,))
        self.numbers = Tensor([_numbers(f) for f in (formula, *groups.formulas)], ms.float64)
        self.plan = Tensor(_plan(parameters, weights, state, groups, offsets), ms.int64)
        self.launch = ops.Custom(f"{kernel_library()[0]}:{FUNCTION}", [1], ms.int32, "aot")
        self.launch.add_prim_attr("side_effect_mem", True)  # it updates what it is given
        self.launcher = Launcher(kernel_library()[0], FUNCTION_BY_ADDRESS) if AVAILABLE else None
        self.output = Tensor([0], ms.int32)  # of a launch by address

    def inputs(self, global_step, learning_rates, weight_decays, gradients, indices):
        """All that enters the launch, in the order in which the kernel reads it."""
        # In sums, since graphs of MindSpore 2.0.0 unpack a tuple only in a call.
        return (
            (self.numbers, self.plan, global_step)
            + self.counters
            + self.norm
            + learning_rates
            + weight_decays
            + gradients
            + indices
            + self.weights
            + self.rounded
            + self.moment1
            + self.moment2
            + self.vhat
        )

    def construct(
        self, global_step, learning_rates, weight_decays, gradients, gradient_dtype, indices
    ):
        self.launch(*self.inputs(global_step, learning_rates, weight_decays, gradients, indices))
        return True

    def now(self, global_step, learning_rates, weight_decays, gradients, indices, check):
        """Makes the step at once, by address; inputs are those of `construct`.

        Args:
            check: called when shapes or dtypes are new; raises if gradients do not fit.

        Raises:
            IndexError: If a row-sparse gradient names a row that its table lacks. The three
                arguments are the place of the gradient, the row, and how many rows there are.
            RuntimeError: If the kernel refuses the tensors for another reason.
        """
        tensors = contiguous(
            (
                *self.inputs(global_step, learning_rates, weight_decays, gradients, indices),
                self.output,
            )
        )
        state = len(self.moment1) + len(self.moment2) + len(self.vhat)
        self.launcher.describe(tensors, state + 1, check)
        settle()
        failure = self.launcher(tensors)
        if failure == _UNKNOWN_ROW:
            raise IndexError(*self.launcher.report)
        if failure:
            raise RuntimeError(f"the kernel refuses the tensors of the step: {_REFUSALS[failure]}")


def _numbers(formula):
    """`struct Formula` of the kernel."""
    clip = math.inf if formula.max_grad_norm is None else formula.max_grad_norm
    return [
        formula.beta1,
        formula.beta2,
        formula.eps,
        formula.loss_scale,
        clip,
        formula.epsilon_hat,
        formula.bias_correction,
        formula.nesterov,
        formula.amsgrad,
        formula.decoupled,
        formula.lazy,
        formula.maximize,
    ]


def _plan(parameters, weights, state, groups, offsets):
    """`struct Plan` of the kernel, and a `struct Layout` for each weight."""
    buffers = 0 if offsets is None else len(state.moment1)
    plan = [len(weights), max(groups.index, default=-1) + 1, thread_count(), buffers]
    for i, own in enumerate(groups.owned):
        begin, size = (0, -1) if own is None else own
        plan += [
            begin,
            size,
            groups.index[i],
            groups.decayed[i],
            groups.centralized[i],
            weights[i] is not parameters[i],
            (offsets[i] or 0) if offsets else 0,
        ]
    return plan


def thread_count():
    """How many threads a step may have.

    OMP_NUM_THREADS, if it is set: the name that users know, though no OpenMP is used. Else one for
    each core that this process may run on. Workers of one training share the cores: mpirun says how
    many there are on this machine, msrun how many in all. A worker that was bound to some of the
    cores has its share already.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if given.isdigit() and int(given) > 0:
        return int(given)
    cores = len(os.sched_getaffinity(0))
    if cores < os.cpu_count():
        return cores
    workers = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or os.environ.get("MS_WORKER_NUM", "1")
    return max(1, cores // int(workers))


@functools.lru_cache(maxsize=None)
def kernel_library():
    """The path of the kernel's library and None, or None and why there is none."""
    try:
        library = toolchain.build(SOURCE)
        getattr(ctypes.CDLL(str(library)), FUNCTION)
    except toolchain.BuildError as error:
        return None, str(error)
    except OSError as error:  # a directory without execution, a C++ library that is too old
        return None, f"the kernel was built and can not be loaded: {error}"
    allowed = os.environ.get("MS_CUSTOM_AOT_WHITE_LIST")
    if allowed and os.path.realpath(allowed) not in map(str, library.resolve().parents):
        return None, (
            f"MS_CUSTOM_AOT_WHITE_LIST allows kernels in {allowed} alone, and ours is "
            f"{library}; MS_ADAM_CACHE says where it is built"
        )
    if ":" in str(library):  # ops.Custom takes "file:function"
        return None, f"MindSpore takes no kernel from a path with a colon: {library}"
    return library, None
