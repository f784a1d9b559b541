"""The base of the optimizers: from checked arguments to state, and the order of one step."""

import copy
import functools
import time
from typing import Any, Dict, List, Union

import mindspore as ms
from mindspore import Parameter, Tensor, log, nn, ops
from mindspore.ops import operations as P

from ms_adam import backends
from ms_adam.backends import launch
from ms_adam.compat import FLOATS, NO_FLOAT, WatchedMemory, placed
from ms_adam.gradients import CheckGradients, normalize_gradients, split_pairs
from ms_adam.groups import Rates, split_groups, take_options
from ms_adam.options import execution_of, formula_of, resolve
from ms_adam.sharding import Exchange, shares_of, undivided
from ms_adam.sparse import SplitRowSparse
from ms_adam.state import ShardLayout, State, layout_entry, weight_kinds

_assign_add, _cast, _reshape = P.AssignAdd(), P.Cast(), P.Reshape()
_STEP_DTYPES = (ms.int32, ms.int64, ms.float32, ms.float64)  # of global_step
_UNCOPIED = (ops.HyperMap, ops.Map, ops.MultitypeFuncGraph, ops.Primitive)
_STORM = 100  # skipped steps in a row of which users are told
# A Cell calls these around `construct`; a launch by address would miss them.
HOOKS = ("_forward_pre_hook", "_forward_hook", "_backward_pre_hook", "_backward_hook")


class Optimizer(nn.Optimizer):
    """The base class of the optimizers of ms_adam.

    Args:
        given: the arguments of the subclass's `__init__` by name.

    The inputs, outputs and attributes are those of `ms_adam.Adam`.
    """

    decoupled_weight_decay = False
    infinity_norm = False  # see `Formula`

    def __init__(self, given: Dict[str, Any]):
        class_name = type(self).__name__
        arguments = resolve(class_name, given, backends.CHOICES, self.infinity_norm)
        params, options = take_options(class_name, arguments["params"], self.infinity_norm)
        # nn.Optimizer would fold the loss scale into the weight decay; here it goes out first.
        super().__init__(arguments["learning_rate"], params, arguments["weight_decay"], 1.0)
        self.loss_scale = arguments["loss_scale"]
        _check_parameters(class_name, self.parameters)
        self._keep_arguments({name: arguments[name] for name in arguments if name in given})
        self._choose_backend(class_name, arguments)
        groups = self._make_state(class_name, options)
        self._make_step(class_name, params, groups)

    def _keep_arguments(self, arguments):
        """Keeps the arguments as MindSpore's own optimizers do, for `boost` and for pickling."""
        self.init_params = {"params": arguments.pop("params")}
        self.init_learning_rate = arguments.pop("learning_rate")
        self.init_args = arguments

    def _choose_backend(self, class_name, arguments):
        self.formula = formula_of(arguments, self.decoupled_weight_decay, self.infinity_norm)
        execution = execution_of(arguments, self._target)
        kinds = weight_kinds(self.parameters, execution.masters)
        self.backend = backends.choose(class_name, self.formula, execution, kinds, self._target)
        self.execution = execution._replace(backend=self.backend)
        self.capabilities = backends.BACKENDS[self.backend].capabilities

    def _make_state(self, class_name, options):
        if self.execution.sharded:
            # A block of int8 is not divided between ranks.
            by_rows = self.capabilities.divides_rows and self.execution.state_dtype != "int8"
            self.shares = shares_of(class_name, self.parameters, by_rows)
        else:
            self.shares = undivided(self.parameters)
        owned = self.shares.owned
        groups, self.group_values = self._split_groups(options)
        if self.execution.state_dtype == "int8" and any(groups.centralized):
            raise ValueError(
                f"For '{class_name}', state_dtype='int8' has no grad_centralization: a block of "
                "256 elements does not begin where a row does."
            )
        kinds = weight_kinds(self.parameters, self.execution.masters)
        rows = groups.rows(kinds) if self.capabilities.flat_by_row else None
        self.state = State(self.parameters, self.formula, self.execution, owned, rows)
        if self.state.layout is not None:
            self.layout, self.flat_layout = self.state.layout, layout_entry(self.state.layout)
        self.grad_norm = self.skipped = self.ema = self.accumulated = None
        for name, moments in self.state.moments_here().items():
            setattr(self, name, moments)
        for name, number in self.state.numbers.items():
            setattr(self, name, number)
        if self.execution.accumulates:
            self.accumulators = self.state.accumulators
        if self.execution.halves:
            self.trailing_bits = self.state.weights
        elif self.execution.masters:
            self.master_weights = self.state.weights
        self.exchanged = self.shares.ranks > 1
        if self.exchanged:
            self.shard_layout = layout_entry(ShardLayout.of(self.parameters, owned))
        return groups

    def _split_groups(self, options):
        return split_groups(self, self.formula, options, self.shares.owned)

    def _make_step(self, class_name, params, groups):
        self.groups = groups  # read by `ms-adam compare`
        self.rates = Rates(self, params)
        self.update = backends.BACKENDS[self.backend](
            self.formula, self.execution, self.parameters, self.state, groups, self._target
        )
        if self.exchanged:
            # Of a master in halves, the parameter is the one that other ranks need.
            weights = self.parameters if self.execution.halves else self.state.weights
            packings = backends.packing_for(
                class_name, self.backend, self.parameters, weights, self._target
            )
            self.exchange = Exchange(packings, self.parameters, self.shares)
        self.check = CheckGradients(
            [parameter.name for parameter in self.parameters],
            [parameter.shape for parameter in self.parameters],
            class_name,
        )
        self.split_row_sparse = SplitRowSparse(class_name)
        self.one, self.done = Tensor([1], ms.int32), Tensor(True)
        self.divides_rows, self.called = self.capabilities.divides_rows, False
        self.leaves_out, self.accumulates = self.execution.leaves_out, self.execution.accumulates
        self.is_averaged = False  # within `averaged`
        self.memory = None  # of a compiled call in PyNative mode
        self.calls = 0  # that were compiled

    @property
    def launch(self) -> str:
        """How a call from Python runs: "by address" or "compiled".

        "by address" calls the kernel of backend "fused" with the addresses of the tensors; there is
        no graph to compile. It is "compiled" with the other backends, on MindSpore 2.0.0, which
        tells no addresses, and where a subclass has a `construct` of its own or a hook was
        registered. Within a compiled step the optimizer is always part of its graph.
        """
        by_address = (
            self.capabilities.by_address
            and launch.on_cpu()
            and not self._overrides_construct()
            and not any(getattr(self, hooks, None) for hooks in HOOKS)
        )
        return "by address" if by_address else "compiled"

    @property
    def lr(self) -> Union[float, List[float]]:
        """The learning rate of the next step: a float; with groups, a list of one for each.

        Assigning a float, or a list with one for each group, sets it, in both modes and in a step
        that is compiled already. (Assigning to `learning_rate` has no effect, as in `nn.Adam`.)

        Raises:
            ValueError: If a learning rate that is set comes from a schedule or a list, or is
                negative or not finite; if there are not as many as groups.
            TypeError: If one is not a number.
        """
        return self.rates.read(self.global_step)

    @lr.setter
    def lr(self, value):
        self.rates.write(value)

    def __call__(self, gradients):
        return self._step(normalize_gradients(self.check.class_name, self.check.names, gradients))

    def flush(self) -> bool:
        """Updates with the mean of the gradients that are accumulated, however few.

        For the end of an epoch whose calls are no multiple of `accumulate_steps`. To be called from
        Python, not in a compiled step.

        Returns:
            bool, whether there were any.

        Raises:
            ValueError: Without `accumulate_steps`.
        """
        if not self.accumulates:
            raise ValueError(
                f"For '{self.check.class_name}', flush() needs accumulate_steps greater than 1, "
                f"but got accumulate_steps={self.execution.accumulate_steps}."
            )
        if not int(self.accumulated.asnumpy()[0]):
            return False
        self._step(None)
        return True

    def _step(self, gradients):
        """Makes a step from Python, with None from the gradients that are accumulated."""
        if self.is_averaged:
            raise RuntimeError(
                f"For '{self.check.class_name}', a step within averaged() would train the averages."
            )
        step = self.global_step
        if step.dtype not in _STEP_DTYPES or step.size != 1:
            raise TypeError(
                f"For '{self.check.class_name}', 'global_step' must be one number, int32, int64, "
                f"float32 or float64, but got {step.dtype} of shape {step.shape}."
            )
        if self.launch == "by address":
            return self._step_by_address(gradients)
        self.called = True  # from Python; a compiled step only enters construct
        result = self._call_compiled(gradients)
        self.calls += 1
        if self.execution.skips and self.calls % _STORM == 0:  # since reading a number waits for it
            self._warn_of_storm(int(self.skipped_in_row.asnumpy()[0]))
        return result

    def _warn_of_storm(self, skipped):
        if skipped >= _STORM:
            log.warning(
                f"For '{self.check.class_name}', {skipped} steps in a row were skipped, because "
                "gradients were not finite. Look for NaN and Inf in the loss, the inputs and the "
                "weights."
            )

    def _call_compiled(self, gradients):
        if ms.get_context("mode") != ms.PYNATIVE_MODE:
            return super().__call__(gradients)
        # A graph in PyNative mode keeps using the memory that it saw first (MindSpore 2.10): after
        # Parameter.set_data, hence after load_param_into_net, steps would be lost. A new graph
        # uses the new memory. Learning rates, which move in each step, are inputs instead.
        rates = () if self._overrides_construct() else self.group_values.moving()
        if self.memory is None:
            inputs = set(map(id, self.group_values.fixed_rates() if rates else ()))
            self.memory = WatchedMemory(p for p in self.get_parameters() if id(p) not in inputs)
        if self.memory.has_moved():
            self._create_time += 1
        result = super().__call__(gradients, *rates)
        self.memory.remember()
        return result

    def _step_by_address(self, gradients):
        values, indices, check = (), (), None
        if gradients is not None:
            values, indices = split_pairs(gradients)
            check = functools.partial(self.check.check_tensors, gradients)
        step = self.global_step
        if step.dtype != ms.int32:
            step = placed(Tensor([int(step.asnumpy().reshape(()))], ms.int32))
        rates = self.group_values.now(step)
        try:
            made = self.update.now(step, rates, values, indices, check)
        except IndexError as error:
            place, row, rows = error.args
            raise RuntimeError(
                f"For '{self.check.class_name}', the gradient of '{self.check.names[place]}' names "
                f"row {row}, but the parameter has {rows} rows."
            ) from None
        if made:
            if step is not self.global_step:  # else the kernel has counted, before Ctrl-C is raised
                launch.number_of(self.global_step).value += 1
        elif self.execution.skips and launch.number_of(self.skipped_in_row).value % _STORM == 0:
            self._warn_of_storm(launch.number_of(self.skipped_in_row).value)
        if self.exchanged and (made or not self.accumulates):
            self.exchange.now()
        return self.done

    def _overrides_construct(self):
        return type(self).construct is not Optimizer.construct

    @ms.jit
    def construct(self, gradients, *fixed_rates):
        if self.accumulates and gradients is None:  # by `flush`
            gradients, dtype, sparse = (), NO_FLOAT, ()
        else:
            dtype, sparse = self.check(gradients)
        if isinstance(gradients, list):
            gradients = tuple(gradients)
        indices = ()
        if sparse != ():
            gradients, indices = self.split_row_sparse(self.parameters, gradients, sparse)
            dtype = NO_FLOAT
        steps = self.global_step
        if self.global_step.dtype != ms.int32:
            steps = _cast(_reshape(self.global_step, (1,)), ms.int32)
        # Schedules are called with the steps already made: before this one counts.
        rates = self.group_values(steps, fixed_rates)
        if self.exchanged and not self.divides_rows and not self.called:
            # Each rank's graph is another one: it would exchange gradients in another order.
            raise ValueError(
                "With shard_state=True and backend 'primitive' or 'composite', call the "
                "optimizer from Python, not in a compiled step: average the gradients "
                "before. backend='fused' can be compiled into a step."
            )
        done = self.update(steps, rates, gradients, dtype, indices)
        made = done if self.leaves_out else self.one
        _assign_add(
            self.global_step, _cast(_reshape(made, self.global_step.shape), self.global_step.dtype)
        )
        if self.exchanged:
            done = self.exchange(self.global_step, (gradients, indices, done))
        return ops.depend(True, done)

    @nn.Optimizer.target.setter
    def target(self, value):
        """The device that updates the parameters: "CPU", "GPU" or "Ascend"."""
        self._set_base_target(value)

    def __setattr__(self, name, value):
        if isinstance(value, Parameter) and self.__dict__.get("calls"):
            # Graphs keep the Parameters that they were compiled with.
            self._create_time += 1
            self.memory = None
        super().__setattr__(name, value)

    def __deepcopy__(self, memo):
        # MindSpore's mapping functions and some operators cannot be copied. They hold no state, so
        # the copy shares them.
        for _, cell in self.cells_and_names():
            for value in vars(cell).values():
                for part in value if isinstance(value, tuple) else (value,):
                    if isinstance(part, _UNCOPIED):
                        memo[id(part)] = part
        duplicate = memo[id(self)] = type(self).__new__(type(self))
        duplicate.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        # MindSpore knows a graph by this time and the id of its cell, which may be that of another
        # copy that is gone: PyNative mode would make the steps of that one.
        duplicate._create_time = time.time_ns()
        return duplicate

    def __reduce__(self):
        # MindSpore's operators cannot be pickled: the optimizer is made again, with its state.
        parts = [(key, part.name, part) for key, part in self.parameters_and_names()]
        params = self.init_params["params"]
        return _make_again, (type(self), params, self.init_learning_rate, self.init_args, parts)

    def extend_repr(self) -> str:
        formula, shares = self.formula, self.shares
        words = {
            "epsilon_hat": formula.epsilon_hat,
            "no bias correction": not formula.bias_correction,
            "nesterov": formula.nesterov,
            "amsgrad": formula.amsgrad,
            f"share {shares.rank} of {shares.ranks}": self.exchanged,
        }
        options = [f"{name}={getattr(formula, name)}" for name in ("beta1", "beta2", "eps")]
        options += [word for word, on in words.items() if on]
        return f"{len(self.parameters)} parameters, {', '.join(options)}, backend={self.backend}"


def _make_again(make, params, learning_rate, arguments, parts):
    """Returns an optimizer that was pickled; see `Optimizer.__reduce__`.

    Args:
        parts: (the name when the optimizer was made, the name now, Parameter) of its Parameters. A
            Cell that got the optimizer may have renamed them, the weights too.
    """
    for key, _, part in parts:
        part.name = key
    optimizer = make(params, learning_rate, **arguments)
    own = dict(optimizer.parameters_and_names())
    for key, name, part in parts:
        if key in own:
            own[key].set_data(part)
            own[key].name = part.name = name
    return optimizer


def _check_parameters(class_name, parameters):
    seen = set()
    for parameter in parameters:
        if parameter.name in seen:
            raise RuntimeError(
                f"For '{class_name}', the parameter '{parameter.name}' is given twice."
            )
        seen.add(parameter.name)
        if parameter.dtype not in FLOATS:
            raise TypeError(
                f"For '{class_name}', the parameter '{parameter.name}' must be float16, bfloat16, "
                f"float32 or float64, but got {parameter.dtype}."
            )
