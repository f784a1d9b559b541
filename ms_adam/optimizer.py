"""Adam and AdamW for MindSpore: arguments, state and the order of one step."""

import copy
import functools
import inspect

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P

from ms_adam import backends
from ms_adam.backends import launch
from ms_adam.compat import FLOATS, HAS_SHARDING, NO_FLOAT, RELEASE, places_of
from ms_adam.formula import (
    Formula,
    check_bool,
    check_choice,
    check_decay_rate,
    check_positive,
    unpack_betas,
)
from ms_adam.gradients import CheckGradients, split_rows, take_from_python
from ms_adam.groups import Rates, split, take_options
from ms_adam.sharding import Exchange, shares_of, undivided
from ms_adam.sparse import parts
from ms_adam.state import ShardLayout, State, kept, weight_kinds
from ms_adam.state import flat_state as make_flat_state
from ms_adam.state import master_weights as make_master_weights

_assign_add, _cast, _reshape = P.AssignAdd(), P.Cast(), P.Reshape()

STEP_DTYPES = (ms.int32, ms.int64, ms.float32, ms.float64)  # of global_step


def _constructor(init):
    """Lets `lr` stand for `learning_rate` and `betas` for `beta1` and `beta2`.

    These are the names that MindSpore announces for releases after 2.9. Giving a value under both
    names is a TypeError, even if the two agree. The arguments are kept as MindSpore's own
    optimizers keep them (`init_params`, `init_learning_rate`, `init_args`), for `boost`.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        class_name = type(self).__name__
        for new, olds in (("lr", ("learning_rate",)), ("betas", ("beta1", "beta2"))):
            both = [old for old in olds if old in bound.arguments]
            if kwargs.get(new) is not None and both:
                raise TypeError(
                    f"For '{class_name}', '{new}' and '{both[0]}' name the same value: "
                    f"give one of them, but got {new}={kwargs[new]!r} and "
                    f"{both[0]}={bound.arguments[both[0]]!r}."
                )
        init(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        arguments.update(arguments.pop("keywords", {}))
        arguments.pop("unknown", None)
        arguments.pop("self")
        learning_rate = arguments.pop("learning_rate")
        lr = arguments.pop("lr", None)
        learning_rate = learning_rate if lr is None else lr
        for name in ("beta1", "beta2") if arguments.get("betas") is not None else ("betas",):
            arguments.pop(name, None)
        self.init_params = {"params": arguments.pop("params")}
        self.init_learning_rate = learning_rate
        self.init_args = arguments

    return wrapper


class Adam(nn.Optimizer):
    r"""Adam: adaptive moment estimation, as Algorithm 1 of the paper has it.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        w_t &= w_{t-1} - \gamma \frac{m_t / (1 - \beta_1^t)}
                                     {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with :math:`g_t` the gradient plus, with weight decay, :math:`\lambda w_{t-1}` (L2). For decay
    apart from the gradient see `AdamW`.

    Takes the place of `mindspore.nn.Adam`: same arguments, defaults, errors, parameter groups and
    state names, in graph mode and in PyNative, with the same numbers in both.

    .. warning::
        `mindspore.nn.Adam` documents the formula above and computes another one, in which epsilon
        is added to the root of the uncorrected moment. `epsilon_hat=True` gives its numbers. The
        two differ by sqrt(1 - beta2^t): 32 times the epsilon in the first step. See
        docs/formulas.md.

    Args:
        params (Union[list[Parameter], list[dict]]): Parameters, or groups of them with the keys
            "params", "lr", "weight_decay", "grad_centralization" and "order_params", as in
            `nn.Adam`, and "betas", "eps" and "maximize". float16, bfloat16, float32 or float64, any
            shape. Not bfloat16 on a GPU, for which MindSpore has no bfloat16 kernels.
        learning_rate (Union[float, int, Tensor, Iterable, LearningRateSchedule], optional): A
            fixed value, one for each step, or a schedule that is called with the number of steps
            already made. Kept in float32, as MindSpore does. Default: ``1e-3`` .
        beta1 (float, optional): Decay rate of the first moment, in [0, 1). Default: ``0.9`` .
        beta2 (float, optional): Decay rate of the second moment, in [0, 1). Default: ``0.999`` .
        eps (float, optional): Added to the root of the second moment, in units of the gradient;
            greater than 0. Default: ``1e-8`` .
        use_locking (bool, optional): Handed to MindSpore's kernels (backend `primitive`), which
            then lock each tensor. No step of ours writes one tensor twice at a time, so results do
            not depend on it. Default: ``False`` .
        use_nesterov (bool, optional): Replaces :math:`m_t` in the update with
            :math:`\beta_1 m_t + (1 - \beta_1) g_t`, as `nn.Adam` does. Default: ``False`` .
        weight_decay (Union[float, int, Cell], optional): :math:`\lambda`. Without groups it acts
            on parameters without 'beta' or 'gamma' in their names, as in `nn.Adam`. A Cell is
            called with the number of steps already made. Default: ``0.0`` .
        loss_scale (float, optional): What the loss was multiplied by; gradients are divided by it
            first of all. Default: ``1.0`` .
        use_amsgrad (bool, optional): Replaces :math:`v_t` in the update with the largest so far
            (Reddi et al. 2018). Together with `use_nesterov`, of which `nn.Adam` then drops the
            latter without a word, both act. Default: ``False`` .

    Keyword Args:
        use_lazy (bool): Leave rows of tables alone that have no gradient, moments and weight: those
            that a row-sparse gradient does not name, and those that are all zero in a dense
            gradient of two axes or more. The others have a step with the count of all steps. It
            is not Adam: the moments of a row stop while it has no gradient. Not with backend
            "primitive". Default: ``False`` , with which every row decays as in a dense gradient.
        use_offload (bool): Keep the moments in host memory and update them there, while the device
            holds parameters and gradients alone. On the CPU they are there anyway. On other
            devices backend "composite" does it. Default: ``False`` .
        epsilon_hat (bool): Add epsilon before the bias correction of the second moment (the last
            lines of section 2 of the paper; what `nn.Adam` computes). Default: ``False`` .
        bias_correction (bool): Whether moments are corrected. Default: ``True`` .
        maximize (bool): Go up the gradient: its sign is changed after `loss_scale` is taken out of
            it, and before weight decay. Default: ``False`` .
        max_grad_norm (float): Clip the gradients, after `loss_scale` is taken out of them and
            before anything else, to this global norm: all are multiplied by
            max_grad_norm / max(norm, max_grad_norm), as `ops.clip_by_global_norm` does.
            Default: ``None`` , which does not clip.
        master_weights (bool): Update a float32 copy of each float16 and bfloat16 parameter; the
            parameter is its rounding. A parameter that is set from outside (`set_data`,
            `load_param_into_net`, `ops.assign`) is what the copy follows. Default: ``False`` .
        backend (str): "fused" (one launch of our kernel for all parameters; CPU, needs a C++
            compiler), "primitive" (MindSpore's kernel for each parameter; float32), "composite"
            (operators; any device and dtype), or "auto": the first of these that can run.
            Default: ``"auto"`` .
        flat_state (bool): Keep all first moments in one buffer and all second moments in another
            (backend `fused`), so that fewer tensors enter the launch. `load_state` reads
            checkpoints of either layout. Default: ``False`` .
        shard_state (bool): In data-parallel training, keep on each rank the moments (and master
            weights) of its share of the parameters alone, update this, and exchange the
            parameters: the state takes 1/N of the memory on each of N ranks, the numbers are the
            same bit for bit. `mindspore.communication.init()` must have been called. With backend
            "fused" shares are equal to within a row of a table; the others divide no parameter, and
            are called from Python, not in a compiled step. See docs/scaling.md.
            Default: ``False`` .
        lr: The name of `learning_rate` in releases of MindSpore after 2.9.
        betas (tuple[float]): `beta1` and `beta2` in one, likewise.

    Inputs:
        - **gradients** (tuple[Union[Tensor, RowTensor, tuple]]) - One for each parameter, in the
          order of `parameters`, of the parameter's shape and any float dtype. They are not
          changed. A gradient for some rows of a table is a RowTensor, as graph mode has it from
          `nn.EmbeddingLookup(sparse=True)`, or a pair (indices, values): int32 or int64 of shape
          (n,), and (n, ...). A row that is named twice has the sum.

    Outputs:
        Tensor[bool], True.

    Called from Python, in either mode, backend "fused" launches its kernel with the addresses of
    the tensors: there is no graph, and nothing to compile. It waits for what MindSpore has queued.
    Other backends are compiled, and so is the optimizer inside a compiled step.

    Attributes:
        backend (str): Which backend runs.
        parameters (ParameterTuple): What is optimized.
        moment1, moment2, vhat (ParameterTuple): float32, or float64 for float64 parameters; one for
            each parameter, or, flat, one for each of these dtypes.
        shares (Shares): Which rank updates what; everything is this one's, but with `shard_state`.
        global_step (Parameter): Steps made, of shape (1,): int32, or int64, float32 or float64 if a
            script puts its own there. Schedules read it.
        update_count (Parameter): Updates made, int32 of shape (1,). The bias correction reads it.
        counted_power (Parameter): `beta2_power` as the last update set it; tells whether the state
            of another optimizer was loaded, whose count is `global_step`.
        grad_norm (Parameter): Global norm of the gradients of the last step, before clipping and
            without `loss_scale`; float32 of shape (). None without `max_grad_norm`.
        lr (Union[float, list[float]]): The learning rate of the next step; can be set.
        launch (str): How a call from Python runs: "by address" or "compiled".

    Raises:
        KeyError: If an unknown keyword is given.
        TypeError: If `learning_rate` is not one of int, float, Tensor, Iterable,
            LearningRateSchedule; if an element of `params` is neither Parameter nor dict; if
            `beta1`, `beta2`, `eps`, `loss_scale` or `max_grad_norm` is not a float; if
            `weight_decay` is neither float, int nor Cell; if a switch is not a bool; if a value is
            given under two names; if a parameter or gradient is not of a float dtype; if the
            gradients are no tuple or list, or one of them is no tensor; if `global_step` was
            replaced by one of another dtype.
        ValueError: If `loss_scale`, `eps` or `max_grad_norm` is not greater than 0; if `beta1` or
            `beta2` is not in [0, 1); if `weight_decay` or `learning_rate` is less than 0; if
            `use_lazy` and `use_offload` are both True, or one of them with `use_amsgrad`; if
            `backend` is unknown or cannot run, or cannot have `flat_state`; if a parameter is
            bfloat16 on a GPU; if the count or a shape of the gradients does not fit; if
            `shard_state` is True in another parallel mode than data-parallel, or its parameters can
            not be sent exactly, or it is compiled into a step with a backend other than "fused".
        RuntimeError: If a parameter is given twice; if a row-sparse gradient names a row that the
            table lacks (backend "fused"; nothing is changed then); if a list of learning rates has
            none for the step; if `shard_state` is True and communication was not started.
        NotImplementedError: If `shard_state` is True and MindSpore is older than 2.7.

    A gradient that holds NaN or Inf makes its own elements of the parameter NaN and no others. One
    whose square overflows (above 1.8e19 in float32) leaves an infinite second moment, from which
    NaN follows in the next step. Dynamic loss scaling keeps such gradients away.

    Supported Platforms:
        ``CPU``; ``GPU`` (run on an H100); ``Ascend`` by the operators used, not yet run there.

    Example:
        >>> import mindspore as ms
        >>> from mindspore import nn, ops
        >>> import ms_adam
        >>> network = nn.Dense(4, 2)
        >>> optimizer = ms_adam.Adam(network.trainable_params(), learning_rate=1e-2)
        >>> loss = lambda x: network(x).square().mean()
        >>> gradient = ms.value_and_grad(loss, None, optimizer.parameters)
        >>> before, gradients = gradient(ms.ops.ones((3, 4)))
        >>> done = optimizer(gradients)
        >>> after, _ = gradient(ms.ops.ones((3, 4)))
        >>> bool(after < before)
        True

    References:
        Kingma & Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv 1412.6980.
    """

    decoupled_weight_decay = False

    @_constructor
    def __init__(
        self,
        params,
        learning_rate=1e-3,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        use_locking=False,
        use_nesterov=False,
        weight_decay=0.0,
        loss_scale=1.0,
        use_amsgrad=False,
        *,
        use_lazy=False,
        use_offload=False,
        epsilon_hat=False,
        bias_correction=True,
        maximize=False,
        max_grad_norm=None,
        master_weights=False,
        backend="auto",
        flat_state=False,
        shard_state=False,
        lr=None,
        betas=None,
        **unknown,
    ):
        class_name = type(self).__name__
        if unknown:
            raise KeyError(
                f"For '{class_name}', no argument is named {', '.join(map(repr, unknown))}."
            )
        learning_rate = learning_rate if lr is None else lr
        if isinstance(learning_rate, str):  # iterable, but no list of learning rates
            raise TypeError(
                f"For '{class_name}', the argument 'learning_rate' must be float, int, "
                f"Tensor, Iterable or LearningRateSchedule, but got "
                f"{learning_rate!r}."
            )
        if betas is not None:
            beta1, beta2 = unpack_betas(class_name, betas)
        loss_scale = _as_float(loss_scale)
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            check_decay_rate(class_name, name, value)
        for name, value in (("eps", eps), ("loss_scale", loss_scale)):
            check_positive(class_name, name, value)
        if max_grad_norm is not None:
            max_grad_norm = _as_float(max_grad_norm)
            check_positive(class_name, "max_grad_norm", max_grad_norm)
        switches = {
            "use_locking": use_locking,
            "use_nesterov": use_nesterov,
            "use_amsgrad": use_amsgrad,
            "use_lazy": use_lazy,
            "use_offload": use_offload,
            "epsilon_hat": epsilon_hat,
            "bias_correction": bias_correction,
            "maximize": maximize,
            "master_weights": master_weights,
            "flat_state": flat_state,
            "shard_state": shard_state,
        }
        for name, value in switches.items():
            check_bool(class_name, name, value)
        check_choice(class_name, "backend", backend, backends.CHOICES)
        _check_combination(class_name, use_lazy, use_offload, use_amsgrad)
        if shard_state and not HAS_SHARDING:
            raise NotImplementedError(
                f"For '{class_name}', shard_state=True needs MindSpore 2.7 or "
                f"newer, but this is {RELEASE}."
            )

        # The base class would fold the loss scale into the weight decay; we unscale first.
        params, options = take_options(class_name, params)
        super().__init__(learning_rate, params, weight_decay, loss_scale=1.0)
        self.loss_scale = loss_scale
        _check_parameters(class_name, self.parameters)

        formula = Formula(
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            epsilon_hat=epsilon_hat,
            bias_correction=bias_correction,
            nesterov=use_nesterov,
            amsgrad=use_amsgrad,
            decoupled=self.decoupled_weight_decay,
            loss_scale=loss_scale,
            maximize=maximize,
            max_grad_norm=max_grad_norm,
            lazy=use_lazy,
            on_host=use_offload and self._target != "CPU",
            use_locking=use_locking,
        )
        if flat_state:
            if backend not in ("auto", "fused"):
                raise ValueError(
                    f"For '{class_name}', flat_state=True is for backend='fused', but "
                    f"got backend='{backend}'."
                )
            backend = "fused"
        self.backend = backends.choose(
            class_name,
            backend,
            formula,
            weight_kinds(self.parameters, master_weights),
            self._target,
        )
        divisible = self.backend == "fused"
        self.shares = (
            shares_of(class_name, self.parameters, divisible)
            if shard_state
            else undivided(self.parameters)
        )
        owned = self.shares.owned
        weights = make_master_weights(self.parameters, owned) if master_weights else self.parameters
        clips = max_grad_norm is not None
        if flat_state:
            state, self.layout, self.flat_layout = make_flat_state(
                self.parameters, use_amsgrad, clips, owned
            )
            offset_of = dict(zip(self.layout.names, self.layout.offsets))
            layout = {"offsets": [offset_of.get(p.name) for p in self.parameters]}
        else:
            state, layout = State.zeros(self.parameters, use_amsgrad, clips, owned), {}
        self.moment1, self.moment2 = kept(state.moment1), kept(state.moment2)
        if use_amsgrad:
            self.vhat = kept(state.vhat)
        self.beta1_power, self.beta2_power = state.beta1_power, state.beta2_power
        self.update_count, self.counted_power = state.update_count, state.counted_power
        self.grad_norm = state.norm
        if master_weights:
            self.master_weights = weights
        groups, self.group_values = split(self, formula, options, owned)
        self.rates = Rates(self, params)
        self.update = backends.BACKENDS[self.backend](
            formula, self.parameters, weights, state, groups, self._target, **layout
        )
        self.exchanged, self.divisible, self.called = self.shares.ranks > 1, divisible, False
        if self.exchanged:
            self.shard_layout = ShardLayout.of(self.parameters, owned).entry()
            packings = backends.packing_for(
                class_name, self.backend, self.parameters, weights, self._target
            )
            self.exchange = Exchange(packings, self.parameters, self.shares)
        self.formula = formula
        self.count = len(self.parameters)
        self.check = CheckGradients(
            [parameter.name for parameter in self.parameters],
            [parameter.shape for parameter in self.parameters],
            class_name,
        )
        self.one = Tensor([1], ms.int32)
        self.done = Tensor(True)
        self.map_ = ops.HyperMap()

    @property
    def launch(self):
        """How a call from Python runs: "by address" or "compiled".

        By address, the kernel of backend "fused" is called with the addresses of the tensors; there
        is no graph, and nothing to compile. It is "compiled" with the other backends, before
        MindSpore 2.8, which is the first that returns all addresses, and where a subclass has a
        `construct` of its own or a hook was registered. Inside a compiled step the optimizer is
        always part of its graph.
        """
        hooked = any(getattr(self, hooks, None) for hooks in _HOOKS)
        by_address = (
            launch.AVAILABLE
            and self.backend == "fused"
            and launch.on_cpu()
            and not self._overrides_construct()
            and not hooked
        )
        return "by address" if by_address else "compiled"

    @property
    def lr(self):
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
        gradients = take_from_python(self.check.class_name, self.check.names, gradients)
        if self.launch == "by address":
            return self._step_by_address(gradients)
        self.called = True  # from Python; a compiled step only enters construct
        if ms.get_context("mode") != ms.PYNATIVE_MODE:
            return super().__call__(gradients)
        # A graph in PyNative mode goes on with the memory that it saw first (MindSpore 2.10): after
        # Parameter.set_data, hence after load_param_into_net, steps would be lost. A new graph
        # sees the new memory. Learning rates, which move in each step, are handed over instead.
        if self.__dict__.get("_places") not in (None, self._places_of_data()):
            self._create_time += 1
        rates = () if self._overrides_construct() else self.group_values.moving()
        result = super().__call__(gradients, *rates)
        self.__dict__["_places"] = self._places_of_data()
        return result

    def _step_by_address(self, gradients):
        values, indices = split_rows(gradients)
        done = self._steps_done()
        learning_rates, weight_decays = self.group_values.now(self.global_step)
        try:
            self.update.now(
                done,
                learning_rates,
                weight_decays,
                values,
                indices,
                functools.partial(self.check.check_tensors, gradients),
            )
        except IndexError as error:
            place, row, rows = error.args
            raise RuntimeError(
                f"For '{self.check.class_name}', the gradient of '{self.check.names[place]}' names "
                f"row {row}, but the parameter has {rows} rows."
            ) from None
        launch.add_one(self.global_step)
        if self.exchanged:
            self.exchange.now()
        return self.done

    def _steps_done(self):
        step = self.global_step
        if step.dtype not in STEP_DTYPES or step.size != 1:
            raise TypeError(
                f"For '{self.check.class_name}', 'global_step' must be one number, int32, int64, "
                f"float32 or float64, but got {step.dtype} of shape {step.shape}."
            )
        if step.dtype == ms.int32:
            return step
        return Tensor([int(step.asnumpy().reshape(()))], ms.int32)

    def _overrides_construct(self):
        return type(self).construct is not Adam.construct

    def _places_of_data(self):
        if "_watched" not in self.__dict__:
            fixed = {
                id(rate.value)
                for rate in self.group_values.learning_rates
                if hasattr(rate, "value") and not self._overrides_construct()
            }
            self.__dict__["_watched"] = [
                parameter for parameter in self.get_parameters() if id(parameter) not in fixed
            ]
        return places_of(self.__dict__["_watched"])

    @ms.jit
    def construct(self, gradients, *fixed_rates):
        dtype, sparse = self.check(gradients)
        if isinstance(gradients, list):
            gradients = tuple(gradients)
        indices = ()
        if sparse != ():
            gradients, indices = parts(self.map_, self.parameters, gradients, sparse)
            dtype = NO_FLOAT
        # Schedules are called with the steps already made: before this one counts.
        learning_rates, weight_decays = self.group_values(self.global_step, fixed_rates)
        if self.exchanged and not self.divisible and not self.called:
            # Each rank's graph is another one: it would exchange gradients in another order.
            raise ValueError(
                "With shard_state=True and backend 'primitive' or 'composite', call the "
                "optimizer from Python, not in a compiled step: average the gradients "
                "before. backend='fused' can be compiled into a step."
            )
        steps = self.global_step
        if self.global_step.dtype != ms.int32:
            steps = _cast(_reshape(self.global_step, (1,)), ms.int32)
        done = self.update(steps, learning_rates, weight_decays, gradients, dtype, indices)
        _assign_add(
            self.global_step,
            _cast(_reshape(self.one, self.global_step.shape), self.global_step.dtype),
        )
        if self.exchanged:
            done = self.exchange(self.global_step, (gradients, indices, done))
        return ops.depend(True, done)

    @nn.Optimizer.target.setter
    def target(self, value):
        """Where the parameters are updated: "CPU", "GPU" or "Ascend"."""
        self._set_base_target(value)

    def __deepcopy__(self, memo):
        # MindSpore's mapping functions and some operators cannot be copied; they hold no state: the
        # copy shares them.
        for _, cell in self.cells_and_names():
            for value in vars(cell).values():
                for part in value if isinstance(value, tuple) else (value,):
                    if isinstance(part, (ops.HyperMap, ops.Map, ops.Primitive)):
                        memo[id(part)] = part
        duplicate = memo[id(self)] = type(self).__new__(type(self))
        duplicate.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return duplicate

    def __reduce__(self):
        # MindSpore's operators cannot be pickled: the optimizer is made again, with its state.
        params = self.init_params["params"] if self.is_group else list(self.parameters)
        weights = {id(parameter) for parameter in self.parameters}
        state = {
            parameter.name: parameter
            for parameter in self.get_parameters()
            if id(parameter) not in weights
        }
        return _make_again, (type(self), params, self.init_learning_rate, self.init_args, state)

    def extend_repr(self):
        f = self.formula
        options = [f"beta1={f.beta1}", f"beta2={f.beta2}", f"eps={f.eps}"]
        options += [
            name
            for name, on in (
                ("epsilon_hat", f.epsilon_hat),
                ("no bias correction", not f.bias_correction),
                ("nesterov", f.nesterov),
                ("amsgrad", f.amsgrad),
                (f"share {self.shares.rank} of {self.shares.ranks}", self.exchanged),
            )
            if on
        ]
        return f"{self.count} parameters, {', '.join(options)}, backend={self.backend}"


class AdamW(Adam):
    r"""Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2).

    .. math::
        w_t = (1 - \gamma \lambda) w_{t-1}
              - \gamma \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    The decay is scaled by the learning rate :math:`\gamma`, as in torch.optim.AdamW and
    `mindspore.experimental.optim.AdamW`. Arguments, errors and everything else are those of `Adam`;
    `weight_decay` defaults to ``1e-2`` .

    .. warning::
        `mindspore.nn.AdamWeightDecay` has no bias correction and an epsilon of 1e-6: it is
        `AdamW(..., eps=1e-6, bias_correction=False)`.

    Example:
        >>> from mindspore import nn, ops
        >>> import ms_adam
        >>> optimizer = ms_adam.AdamW(nn.Dense(4, 2).trainable_params(), weight_decay=0.05)

    References:
        Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv 1711.05101.
    """

    decoupled_weight_decay = True

    @_constructor
    def __init__(
        self,
        params,
        learning_rate=1e-3,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        use_locking=False,
        use_nesterov=False,
        weight_decay=1e-2,
        loss_scale=1.0,
        use_amsgrad=False,
        **keywords,
    ):
        # Both spellings of a name are sorted out; what is left is Adam's __init__ itself.
        Adam.__init__.__wrapped__(
            self,
            params,
            learning_rate,
            beta1,
            beta2,
            eps,
            use_locking,
            use_nesterov,
            weight_decay,
            loss_scale,
            use_amsgrad,
            **keywords,
        )


def _make_again(make, params, learning_rate, arguments, state):
    """Returns an optimizer that was pickled; see `Adam.__reduce__`."""
    optimizer = make(params, learning_rate, **arguments)
    for parameter in optimizer.get_parameters():
        if parameter.name in state:
            parameter.set_data(state[parameter.name])
    return optimizer


# What a Cell calls around `construct`, and a launch by address would miss.
_HOOKS = ("_forward_pre_hook", "_forward_hook", "_backward_pre_hook", "_backward_hook")


def _as_float(value):
    """Whole numbers as floats, as `nn.Optimizer` takes them; True is no number."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_combination(class_name, use_lazy, use_offload, use_amsgrad):
    """Refuses what `nn.Adam` refuses, in words that contain its own."""
    given = f"but got use_lazy={use_lazy}, use_offload={use_offload}, use_amsgrad={use_amsgrad}."
    if use_lazy and use_offload:
        raise ValueError(
            f"For '{class_name}', 'use_lazy' and 'use_offload' can not both be True, {given}"
        )
    if (use_lazy or use_offload) and use_amsgrad:
        raise ValueError(
            f"For lazy Adam and Adam with offload, there is no parameter named "
            f"'use_amsgrad'. For '{class_name}', use_amsgrad=True needs use_lazy=False "
            f"and use_offload=False, {given}"
        )


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
                f"For '{class_name}', the parameter '{parameter.name}' must be float16, "
                f"bfloat16, float32 or float64, but got {parameter.dtype}."
            )
