"""Adam, AdamW and AdaMax for MindSpore: their arguments and what these mean."""

from typing import Any, Optional, Tuple

from ms_adam.base import Optimizer
from ms_adam.options import BETA1, BETA2, LEARNING_RATE

__all__ = ["AdaMax", "Adam", "AdamW"]


class Adam(Optimizer):
    r"""Adam: adaptive moment estimation, as Algorithm 1 of the paper has it.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        w_t &= w_{t-1} - \gamma \frac{m_t / (1 - \beta_1^t)}
                                     {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with :math:`g_t` the gradient plus, with weight decay, :math:`\lambda w_{t-1}` (L2). For decay
    apart from the gradient see `AdamW`.

    Replaces `mindspore.nn.Adam`: arguments, defaults, errors, parameter groups and state names are
    the same. Graph mode and PyNative give the same bits.

    .. warning::
        `mindspore.nn.Adam` documents the formula above and computes another one, in which epsilon
        is added to the root of the uncorrected moment. `epsilon_hat=True` gives its numbers. The
        two differ by sqrt(1 - beta2^t): 32 times the epsilon in the first step. See
        docs/formulas.md.

    Args:
        params (Union[list[Parameter], list[dict]]): Parameters, or groups of them with the keys
            "params", "lr", "weight_decay", "grad_centralization" and "order_params", as in
            `nn.Adam`, and "betas", "eps" and "maximize". float16, bfloat16 (not on a GPU), float32
            or float64, of any shape.
        learning_rate (Union[float, int, Tensor, Iterable, LearningRateSchedule], optional): A
            fixed value, one for each step, or a schedule that is called with the number of steps
            already made. Kept in float32. Default: ``1e-3`` .
        beta1 (float, optional): Decay rate of the first moment, in [0, 1). Default: ``0.9`` .
        beta2 (float, optional): Decay rate of the second moment, in [0, 1). Default: ``0.999`` .
        eps (float, optional): Added to the root of the second moment, in units of the gradient;
            greater than 0. Default: ``1e-8`` .
        use_locking (bool, optional): Passed to MindSpore's kernels (backend "primitive"), which
            then lock each tensor. Results do not depend on it. Default: ``False`` .
        use_nesterov (bool, optional): Replaces :math:`m_t` in the update with
            :math:`\beta_1 m_t + (1 - \beta_1) g_t`. Default: ``False`` .
        weight_decay (Union[float, int, Cell], optional): :math:`\lambda`. Without groups it acts
            on parameters without 'beta' or 'gamma' in their names, as in `nn.Adam`. A Cell is
            called with the number of steps already made. Default: ``0.0`` .
        loss_scale (Union[float, amp.DynamicLossScaler, amp.StaticLossScaler, Parameter], optional):
            The factor of the loss; gradients are divided by it first. Of a scaler, or a float32
            Parameter that others adjust, each step reads the present value and does what
            `skip_nonfinite` says. A dynamic one it adjusts as `DynamicLossScaler.adjust` does: a
            training step only multiplies its loss. Default: ``1.0`` .
        use_amsgrad (bool, optional): Replaces :math:`v_t` in the update with the largest so far
            (Reddi et al. 2018). Default: ``False`` .

    Keyword Args:
        use_lazy (bool): Skip rows of tables without a gradient, moments and weight: rows that a
            row-sparse gradient does not name, and rows that are all zero in a dense gradient of two
            axes or more. Not Adam, and not with backend "primitive". Default: ``False`` .
        use_offload (bool): Keep the moments in host memory and update them there. Changes nothing
            on the CPU; elsewhere backend "composite" does it. Default: ``False`` .
        epsilon_hat (bool): Add epsilon before the bias correction of the second moment (the last
            lines of section 2 of the paper). Default: ``False`` .
        bias_correction (bool): Whether moments are corrected. Default: ``True`` .
        maximize (bool): Go up the gradient. Its sign is changed after `loss_scale` is taken out of
            it, and before weight decay. Default: ``False`` .
        skip_nonfinite (bool): Change nothing in a step of which a gradient has a NaN or an infinite
            element, and count it in `skipped`; schedules wait. Costs one more reading of the
            gradients, and nothing with `max_grad_norm`. Default: ``False`` .
        accumulate_steps (int): Update in every k-th call only, with the mean of the gradients of k
            calls. Schedules count updates; skipped calls are left out. See `flush`. Default: 1.
        max_grad_norm (float): Clip the unscaled gradients to this global norm, as
            `ops.clip_by_global_norm` does. Default: ``None`` , no clipping.
        ema_decay (Union[float, Cell]): Keep an average of each weight, updated in the same pass
            with this decay rate, in [0, 1); see `averaged`. Default: ``None`` , no averages.
        ema_debias (bool): Divide averages by 1 - ema_decay^t, as section 7.2 of the paper does;
            False: let them begin at the weights before the first update. Default: ``True`` .
        state_dtype (str): The dtype in which moments are kept: "float32" ; "bfloat16" or "int8" ,
            rounded at random, reproducibly; see docs/narrow.md. Default: ``"float32"`` .
        master_weights (Union[bool, str]): Update a float32 copy of each float16 and bfloat16
            parameter, which is its rounding. The copy follows a parameter that is set from outside.
            "split": of bfloat16 keep only the bits that the parameter lacks. Default: ``False`` .
        backend (str): "fused" (one launch of a kernel for all parameters; CPU, needs a C++
            compiler), "primitive" (MindSpore's kernel for each parameter; float32), "composite"
            (operators; any device and dtype), or "auto": the first of these that can run.
            Default: ``"auto"`` .
        flat_state (bool): Keep the moments of all parameters in few buffers (backends "fused" and
            "composite"): a step launches less. See docs/devices.md. Default: ``False`` .
        shard_state (bool): In data-parallel training, keep on each rank only its share of the
            moments and master weights. Needs `mindspore.communication.init()`; see docs/scaling.md.
            Default: ``False`` .
        lr: Another name of `learning_rate`, as in releases of MindSpore after 2.9.
        betas (tuple[float]): `beta1` and `beta2` in one, likewise.

    Inputs:
        - **gradients** (tuple[Union[Tensor, RowTensor, tuple]]) - One for each parameter, in the
          order of `parameters`, of the parameter's shape and any float dtype; a list will do. A
          gradient for some rows of a table is a RowTensor or a pair (indices, values): int32 or
          int64 of shape (n,), and (n, ...). A row that is named twice has the sum.

    Outputs:
        Tensor[bool], True.

    Attributes:
        backend (str): The backend that runs.
        launch (str): How a call from Python runs: "by address" or "compiled".
        lr (Union[float, list[float]]): The learning rate of the next step; can be set.
        parameters (ParameterTuple): The optimized parameters.
        moment1, moment2, vhat (ParameterTuple): One for each parameter; flat, few buffers. float64
            for float64 parameters, else of `state_dtype`.
        global_step (Parameter): Number of steps, of shape (1,), for schedules.
        update_count (Parameter): Number of updates, int32 of shape (1,), for the bias correction.
        grad_norm (Parameter): Global norm of the last gradients, unscaled, before clipping; float32
            of shape (). None without `max_grad_norm`.
        skipped (Parameter): Number of skipped steps, int32 of shape (1,). None if none can be.
        accumulated (Parameter): How many gradients wait in the sums, int32 of shape (1,), or None.
        ema (ParameterTuple): The averages, in the layout of the moments. None without `ema_decay`.

    Raises:
        KeyError: If an unknown keyword is given.
        TypeError: If an argument, a parameter or a gradient is of the wrong type, or a value is
            given under two names.
        ValueError: If an argument is out of range, or options or the shapes of gradients do not fit
            each other; if the backend cannot run.
        RuntimeError: If a parameter is given twice; if a row-sparse gradient names a row that the
            table lacks (backend "fused"; nothing is changed then); if a list of learning rates has
            none for the step; if `shard_state` is True and communication was not started.
        NotImplementedError: If `shard_state` is True and MindSpore is older than 2.7.

    docs/formulas.md tells more of lazy rows, counters, replaced data, NaN and Inf.

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

    def __init__(
        self,
        params: Any,
        learning_rate: Any = LEARNING_RATE,
        beta1: float = BETA1,
        beta2: float = BETA2,
        eps: float = 1e-8,
        use_locking: bool = False,
        use_nesterov: bool = False,
        weight_decay: Any = 0.0,
        loss_scale: Any = 1.0,
        use_amsgrad: bool = False,
        *,
        use_lazy: bool = False,
        use_offload: bool = False,
        epsilon_hat: bool = False,
        bias_correction: bool = True,
        maximize: bool = False,
        skip_nonfinite: bool = False,
        accumulate_steps: int = 1,
        max_grad_norm: Optional[float] = None,
        ema_decay: Any = None,
        ema_debias: bool = True,
        state_dtype: str = "float32",
        master_weights: Any = False,
        backend: str = "auto",
        flat_state: bool = False,
        shard_state: bool = False,
        lr: Any = None,
        betas: Optional[Tuple[float, float]] = None,
        **unknown: Any,
    ):
        given = dict(locals())
        super().__init__({name: given[name] for name in given if name not in ("self", "__class__")})


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

    def __init__(
        self,
        params: Any,
        learning_rate: Any = LEARNING_RATE,
        beta1: float = BETA1,
        beta2: float = BETA2,
        eps: float = 1e-8,
        use_locking: bool = False,
        use_nesterov: bool = False,
        weight_decay: Any = 1e-2,
        loss_scale: Any = 1.0,
        use_amsgrad: bool = False,
        **keywords: Any,
    ):
        super().__init__(
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


class AdaMax(Optimizer):
    r"""AdaMax: Adam with the infinity norm, Algorithm 2 of the paper (section 7.1).

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        u_t &= \max(\beta_2 u_{t-1}, |g_t|) \\
        w_t &= w_{t-1} - \frac{\gamma}{1 - \beta_1^t} \frac{m_t}{u_t + \epsilon}

    Replaces `mindspore.nn.AdaMax`: arguments, defaults and state names are the same. `moment2`
    holds :math:`u`. ``eps=0.0`` is Algorithm 2 itself: an element whose gradients were all 0 stays
    where it is. Keywords (but `epsilon_hat` and `bias_correction`), inputs, attributes and errors
    are those of `Adam`. Backends "fused" and "composite" have it.

    Example:
        >>> from mindspore import nn
        >>> import ms_adam
        >>> optimizer = ms_adam.AdaMax(nn.Dense(4, 2).trainable_params(), learning_rate=2e-3)

    References:
        Kingma & Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv 1412.6980.
    """

    infinity_norm = True

    def __init__(
        self,
        params: Any,
        learning_rate: Any = LEARNING_RATE,
        beta1: float = BETA1,
        beta2: float = BETA2,
        eps: float = 1e-8,
        weight_decay: Any = 0.0,
        loss_scale: Any = 1.0,
        *,
        use_lazy: bool = False,
        use_offload: bool = False,
        maximize: bool = False,
        skip_nonfinite: bool = False,
        accumulate_steps: int = 1,
        max_grad_norm: Optional[float] = None,
        ema_decay: Any = None,
        ema_debias: bool = True,
        state_dtype: str = "float32",
        master_weights: Any = False,
        backend: str = "auto",
        flat_state: bool = False,
        shard_state: bool = False,
        lr: Any = None,
        betas: Optional[Tuple[float, float]] = None,
        **unknown: Any,
    ):
        given = dict(locals())
        super().__init__({name: given[name] for name in given if name not in ("self", "__class__")})
