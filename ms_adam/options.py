"""The arguments of an optimizer, checked: which update it makes, and how it is carried out.

The types and occasions of the errors are those that `mindspore.nn.Adam` documents under Raises,
with one exception: the paper allows decay rates of 0 (Kingma & Ba 2015, Algorithm 1: beta1, beta2
in [0, 1)), and so does ms_adam.
"""

import math
from collections.abc import Iterable as IsIterable
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.amp import DynamicLossScaler, StaticLossScaler


class Formula(NamedTuple):
    """The mathematics of the update, the same in every step. Groups may differ in it.

    Attributes:
        beta1: decay rate of the first moment, in [0, 1).
        beta2: decay rate of the second moment, in [0, 1).
        eps: epsilon, added to the root of the second moment; greater than 0.
        epsilon_hat: whether epsilon is added before the bias correction of the root.
        bias_correction: whether the moments are divided by 1 - beta^t.
        nesterov: whether the first moment looks one step ahead.
        amsgrad: whether the largest second moment so far takes the place of the second moment.
        decoupled: whether weight decay acts on the weight (AdamW) or on the gradient (L2).
        maximize: whether the step goes up the gradient.
        lazy: whether rows of tables without a gradient are skipped, moments and weight.
        infinity_norm: whether the decayed maximum of |gradient| takes the place of the root of the
            second moment (AdaMax); eps may then be 0.
        ema_decay: decay rate of the averages of the weights, in [0, 1), or a Cell, called with the
            number of steps made; None: there are none.
        ema_debias: whether the averages are free of the bias towards their start.
        begun: the number of updates that were made before these parameters joined the optimizer.
    """

    beta1: float
    beta2: float
    eps: float
    epsilon_hat: bool
    bias_correction: bool
    nesterov: bool
    amsgrad: bool
    decoupled: bool
    maximize: bool
    lazy: bool
    infinity_norm: bool
    ema_decay: Union[float, nn.Cell, None]
    ema_debias: bool
    begun: int = 0

    @property
    def averages_by_schedule(self) -> bool:
        """Whether each step has its own `ema_decay`."""
        return isinstance(self.ema_decay, nn.Cell)


class Scaler(NamedTuple):
    """A loss scale that each step reads, and adjusts if it is that of a DynamicLossScaler.

    Attributes:
        scale: float32 Parameter of one number.
        counter: int32 Parameter of shape (), the finite steps in a row; None if the scale is fixed.
        factor: by which the scale grows and shrinks.
        window: the number of finite steps in a row after which the scale grows; 0 if it is fixed.
    """

    scale: Any
    counter: Optional[Any]
    factor: int
    window: int


class Execution(NamedTuple):
    """How a step is carried out, the same for all groups.

    The clipping is here and not in `Formula`: like the loss scale it multiplies all gradients by
    one number before any formula sees them, and no group can have its own.

    Attributes:
        loss_scale: the factor that the gradients carry; greater than 0. 1 if there is a scaler.
        scaler: what holds this factor; None: `loss_scale` is the factor.
        skips: whether a step with a gradient that is not finite changes nothing.
        accumulate_steps: the number of calls whose gradients make one update, with their mean.
        max_grad_norm: the global norm to which unscaled gradients are clipped; None: no clipping.
        use_locking: passed to those kernels of MindSpore that know it.
        on_host: whether moments stay in host memory, and are updated there, while the device is
            another one.
        backend: one of `backends.CHOICES`; the one that runs, once it is chosen.
        flat: whether the moments of all parameters stand in one buffer.
        sharded: whether each rank keeps only a share of the state.
        masters: whether low-precision parameters have a float32 copy.
        halves: whether of such a copy only the bits are kept that the parameter lacks.
        state_dtype: the dtype in which moments are kept, one of `STATE_DTYPES`.
        seed: of the random numbers that round narrow moments.
    """

    loss_scale: float
    scaler: Optional[Scaler]
    skips: bool
    accumulate_steps: int
    max_grad_norm: Optional[float]
    use_locking: bool
    on_host: bool
    backend: str
    flat: bool
    sharded: bool
    masters: bool
    halves: bool
    state_dtype: str
    seed: int

    @property
    def narrow(self) -> bool:
        """Whether moments are kept in fewer bits than they are computed in."""
        return self.state_dtype != STATE_DTYPES[0]

    @property
    def accumulates(self) -> bool:
        """Whether gradients of several calls make one update."""
        return self.accumulate_steps > 1

    @property
    def leaves_out(self) -> bool:
        """Whether a call may leave the weights as they are."""
        return self.skips or self.accumulates


class Default(float):
    """A default value that differs from an equal number given by the user."""


STATE_DTYPES = ("float32", "bfloat16", "int8")
LEARNING_RATE, BETA1, BETA2 = Default(1e-3), Default(0.9), Default(0.999)


# The names that MindSpore announces for releases after 2.9, and the arguments they stand for.
_ALIASES = {"lr": ("learning_rate",), "betas": ("beta1", "beta2")}
_SWITCHES = (
    "use_locking",
    "use_nesterov",
    "use_amsgrad",
    "use_lazy",
    "use_offload",
    "epsilon_hat",
    "bias_correction",
    "maximize",
    "skip_nonfinite",
    "ema_debias",
    "flat_state",
    "shard_state",
)


# The arguments that an optimizer may lack.
_NEUTRAL = dict(
    use_locking=False,
    use_nesterov=False,
    use_amsgrad=False,
    epsilon_hat=False,
    bias_correction=True,
)


def refuse_unknown(class_name: str, unknown: Iterable[str], known: Iterable[str]) -> None:
    """Raises a KeyError that names the first unknown argument, and those that there are."""
    for name in unknown:
        meant = get_close_matches(name, list(known), 1)
        hint = f": did you mean '{meant[0]}'?" if meant else "."
        raise KeyError(
            f"For '{class_name}', no argument is named '{name}'{hint} The arguments are "
            f"{', '.join(sorted(known))}."
        )


def resolve(
    class_name: str, given: Dict[str, Any], backends: Sequence[str], infinity_norm: bool
) -> Dict[str, Any]:
    """Returns the arguments of an optimizer, checked, each under one name.

    Iterators, which can be read only once, become lists: a copy or a pickle of the optimizer needs
    their values again. Groups are copied.

    Args:
        given: the arguments by name; `unknown` holds those that have no name here.
        backends: the names that `backend` may have.

    Raises:
        KeyError: If there are unknown arguments.
        TypeError: If an argument is of the wrong type, or a value is given under two names, even
            if both are equal.
        ValueError: If an argument is out of range.
    """
    for alias, names in _ALIASES.items():
        both = [name for name in names if not isinstance(given[name], Default)]
        if given[alias] is not None and both:
            raise TypeError(
                f"For '{class_name}', '{alias}' and '{both[0]}' name the same value: give one of "
                f"them, but got {alias}={given[alias]!r} and {both[0]}={given[both[0]]!r}."
            )
    arguments: Dict[str, Any] = {
        name: float(value) if isinstance(value, Default) else value
        for name, value in {**_NEUTRAL, **given}.items()
    }
    unknown, lr, betas = (arguments.pop(name) for name in ("unknown", "lr", "betas"))
    refuse_unknown(class_name, unknown, {"params", *given} - {"unknown"})
    if lr is not None:
        arguments["learning_rate"] = lr
    params = arguments["params"] = checked_params(class_name, arguments["params"])
    arguments["learning_rate"] = _as_list(arguments["learning_rate"])
    for group in (arguments, *(group for group in params if isinstance(group, dict))):
        for name in {"learning_rate", "lr"} & set(group):
            check_rates(class_name, name, group[name])
    if betas is not None:
        arguments["beta1"], arguments["beta2"] = unpack_betas(class_name, betas)
    for name in ("loss_scale", "max_grad_norm"):
        arguments[name] = _as_float(arguments[name])
    for name in ("beta1", "beta2"):
        check_decay_rate(class_name, name, arguments[name])
    check_eps(class_name, arguments["eps"], infinity_norm)
    ema_decay = arguments["ema_decay"] = _as_float(arguments["ema_decay"])
    if ema_decay is not None and not isinstance(ema_decay, nn.Cell):
        if not isinstance(ema_decay, float):
            raise TypeError(_wrong_type(class_name, "ema_decay", ema_decay, "a float or a Cell"))
        check_decay_rate(class_name, "ema_decay", ema_decay)
    loss_scale = arguments["loss_scale"]
    if scaler_of(loss_scale) is None:
        if not isinstance(loss_scale, float):
            allowed = "a float, a loss scaler of mindspore.amp or a float32 Parameter of one number"
            raise TypeError(_wrong_type(class_name, "loss_scale", loss_scale, allowed))
        check_positive(class_name, "loss_scale", loss_scale)
    check_count(class_name, "accumulate_steps", arguments["accumulate_steps"])
    if arguments["max_grad_norm"] is not None:
        check_positive(class_name, "max_grad_norm", arguments["max_grad_norm"])
    for name in _SWITCHES:
        check_bool(class_name, name, arguments[name])
    if arguments["master_weights"] != "split":
        check_bool(class_name, "master_weights", arguments["master_weights"], ' or "split"')
    check_choice(class_name, "state_dtype", arguments["state_dtype"], STATE_DTYPES)
    check_choice(class_name, "backend", arguments["backend"], backends)
    _check_combination(class_name, arguments)
    return arguments


def formula_of(arguments: Dict[str, Any], decoupled: bool, infinity_norm: bool) -> Formula:
    """Returns the formula that resolved arguments describe."""
    return Formula(
        beta1=arguments["beta1"],
        beta2=arguments["beta2"],
        eps=arguments["eps"],
        epsilon_hat=arguments["epsilon_hat"],
        bias_correction=arguments["bias_correction"],
        nesterov=arguments["use_nesterov"],
        amsgrad=arguments["use_amsgrad"],
        decoupled=decoupled,
        maximize=arguments["maximize"],
        lazy=arguments["use_lazy"],
        infinity_norm=infinity_norm,
        ema_decay=arguments["ema_decay"],
        ema_debias=arguments["ema_debias"],
    )


def execution_of(arguments: Dict[str, Any], device_target: str) -> Execution:
    """Returns how resolved arguments want steps to be carried out on a device."""
    scaler = scaler_of(arguments["loss_scale"])
    return Execution(
        loss_scale=arguments["loss_scale"] if scaler is None else 1.0,
        scaler=scaler,
        skips=arguments["skip_nonfinite"] or scaler is not None,
        accumulate_steps=arguments["accumulate_steps"],
        max_grad_norm=arguments["max_grad_norm"],
        use_locking=arguments["use_locking"],
        on_host=arguments["use_offload"] and device_target != "CPU",
        backend=arguments["backend"],
        flat=arguments["flat_state"],
        sharded=arguments["shard_state"],
        masters=bool(arguments["master_weights"]),
        halves=arguments["master_weights"] == "split",
        state_dtype=arguments["state_dtype"],
        seed=(ms.get_seed() or 0) % 2**32,
    )


def scaler_of(loss_scale: Any) -> Optional[Scaler]:
    """Returns the loss scale that an argument `loss_scale` holds; None if it holds none."""
    if isinstance(loss_scale, DynamicLossScaler):
        return Scaler(
            loss_scale.scale_value,
            loss_scale.counter,
            loss_scale.scale_factor,
            loss_scale.scale_window,
        )
    if isinstance(loss_scale, StaticLossScaler):
        return Scaler(loss_scale.scale_value, None, 1, 0)
    is_number = isinstance(loss_scale, ms.Parameter) and loss_scale.size == 1
    if is_number and loss_scale.dtype == ms.float32:
        return Scaler(loss_scale, None, 1, 0)
    return None


def checked_params(class_name: str, params: Any) -> List[Any]:
    """Returns the parameters or groups that an optimizer is given, in a list.

    Iterators, which can be read only once, become lists, those in groups too; groups are copied.
    """
    if params is None:
        raise ValueError(f"For '{class_name}', the argument 'params' must not be None.")
    if isinstance(params, (str, Tensor, nn.Cell)) or not isinstance(params, IsIterable):
        raise TypeError(
            f"For '{class_name}', the argument 'params' must be a list of Parameters, such as "
            f"network.trainable_params(), or of groups (dicts), but got {type(params).__name__}."
        )
    members = list(params)
    if not members:
        raise ValueError(f"For '{class_name}', the argument 'params' must not be empty.")
    kind = dict if isinstance(members[0], dict) else Parameter
    for place, member in enumerate(members):
        if not isinstance(member, kind):
            raise TypeError(
                f"For '{class_name}', all elements of 'params' must be Parameters, or all groups "
                f"(dicts), but number {place} is a {type(member).__name__}."
            )
        if kind is dict and not {"params", "order_params"} & set(member):
            raise KeyError(
                f"For '{class_name}', group {place} lacks 'params'; it has "
                f"{', '.join(map(repr, member)) or 'nothing'}."
            )
    if kind is dict:
        return [{key: _as_list(value) for key, value in group.items()} for group in members]
    return members


def check_rates(class_name: str, name: str, value: Any) -> None:
    """Refuses a list or a Tensor of learning rates, one for each step, that are no rates."""
    if isinstance(value, (int, float, nn.Cell)):
        return  # a number, which nn.Optimizer checks, or a schedule
    wrong = _wrong_type(
        class_name, name, value, "a number, a list or Tensor of one for each step, or a schedule"
    )
    if value is None or isinstance(value, str):
        raise TypeError(wrong)
    try:
        numbers = value.astype(ms.float32).asnumpy() if isinstance(value, Tensor) else value
        rates = np.array(numbers, np.float64)
    except (TypeError, ValueError):
        raise TypeError(wrong) from None
    if rates.ndim > 1:
        raise ValueError(wrong)
    refused = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    if rates.size == 0 or refused.size:
        found = f"{rates.flat[refused[0]]} for step {refused[0]}" if refused.size else "none"
        raise ValueError(
            f"For '{class_name}', the learning rates in '{name}' must be finite and not negative, "
            f"but got {found}."
        )


def check_bool(class_name: str, name: str, value: Any, more: str = "") -> None:
    """Raises TypeError unless `value` is True or False; the message also allows `more`."""
    if not isinstance(value, bool):
        raise TypeError(
            _wrong_type(class_name, name, value, f"True, False{more}" if more else "True or False")
        )


def check_count(class_name: str, name: str, value: Any) -> None:
    """Raises TypeError unless `value` is an int, ValueError unless it is in [1, 2^31)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(_wrong_type(class_name, name, value, "an int"))
    if not 1 <= value < 2**31:
        raise ValueError(_wrong_value(class_name, name, value, "in the range [1, 2^31)"))


def check_decay_rate(class_name: str, name: str, value: Any) -> None:
    """Raises TypeError unless `value` is a float, ValueError unless it is in [0, 1)."""
    _check_float(class_name, name, value)
    if not 0.0 <= value < 1.0:
        raise ValueError(_wrong_value(class_name, name, value, "in the range [0.0, 1.0)"))


def check_positive(class_name: str, name: str, value: Any) -> None:
    """Raises TypeError unless `value` is a float, ValueError unless it is finite and above 0."""
    _check_float(class_name, name, value)
    if not 0.0 < value < math.inf:
        raise ValueError(_wrong_value(class_name, name, value, "finite and greater than 0"))


def check_eps(class_name: str, value: Any, infinity_norm: bool) -> None:
    """Raises as `check_positive`; an infinity norm allows 0."""
    if not (infinity_norm and isinstance(value, float) and value == 0.0):
        check_positive(class_name, "eps", value)


def check_choice(class_name: str, name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raises TypeError unless `value` is a string, ValueError unless it is one of `allowed`."""
    choices = f"one of {', '.join(map(repr, allowed))}"
    if not isinstance(value, str):
        raise TypeError(_wrong_type(class_name, name, value, choices))
    if value not in allowed:
        raise ValueError(_wrong_value(class_name, name, value, choices))


def unpack_betas(class_name: str, betas: Any) -> Tuple[Any, Any]:
    """Returns beta1 and beta2; raises TypeError unless `betas` is a pair."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(_wrong_type(class_name, "betas", betas, "two floats, beta1 and beta2"))
    return tuple(betas)


def _check_combination(class_name, arguments):
    """Refuses the combinations that `nn.Adam` refuses, in words that contain its own."""
    lazy, offload, amsgrad = (
        arguments[name] for name in ("use_lazy", "use_offload", "use_amsgrad")
    )
    given = f"but got use_lazy={lazy}, use_offload={offload}, use_amsgrad={amsgrad}."
    if lazy and offload:
        raise ValueError(  # the words of nn.Adam, which MindSpore's own tests expect
            f"For '{class_name}', 'use_lazy' and 'use_offload' can not both be True, {given}"
        )
    if (lazy or offload) and amsgrad:
        raise ValueError(
            f"For lazy Adam and Adam with offload, there is no parameter named 'use_amsgrad'. For "
            f"'{class_name}', use_amsgrad=True needs use_lazy=False and use_offload=False, {given}"
        )


def _as_list(value):
    """Returns a list in the place of an iterator."""
    return list(value) if isinstance(value, Iterator) else value


def _as_float(value):
    """Returns whole numbers as floats, as `nn.Optimizer` accepts them; a bool is not a number."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_float(class_name, name, value):
    if not isinstance(value, float):
        raise TypeError(_wrong_type(class_name, name, value, "a float"))


def _wrong_type(class_name, name, value, allowed):
    return (
        f"For '{class_name}', the argument '{name}' must be {allowed}, but got {value!r} of type "
        f"{type(value).__name__}."
    )


def _wrong_value(class_name, name, value, allowed):
    return f"For '{class_name}', the argument '{name}' must be {allowed}, but got {value!r}."
