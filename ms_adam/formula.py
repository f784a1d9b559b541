"""Which Adam: the numbers and switches that pick one formula, and the errors for bad ones.

Types and occasions of the errors are those that `mindspore.nn.Adam` documents under Raises, with
one exception: the paper allows a decay rate of 0 (Kingma & Ba 2015, Algorithm 1: beta1, beta2 in
[0, 1)), so do we.
"""

import math
from typing import NamedTuple, Optional


class Formula(NamedTuple):
    """The update that one optimizer computes, the same for every parameter and step.

    Attributes:
        beta1: decay rate of the first moment, in [0, 1).
        beta2: decay rate of the second moment, in [0, 1).
        eps: epsilon, added to the root of the second moment; greater than 0.
        epsilon_hat: epsilon is added to the root of the moment before (True) or after (False) its
            bias correction.
        bias_correction: whether the moments are divided by 1 - beta^t.
        nesterov: whether the first moment looks one step ahead.
        amsgrad: whether the second moment is the largest that was seen.
        decoupled: whether weight decay acts on the weight (AdamW) or on the gradient (L2).
        loss_scale: what the gradients were multiplied by; greater than 0.
        max_grad_norm: the gradients, unscaled, are clipped to this global norm; None: not clipped.
        maximize: whether the step goes up the gradient.
        lazy: rows of tables without a gradient stay as they are, moments and weight.
        on_host: moments stay in host memory and are updated there, though the device is another one.
        use_locking: handed to those kernels of MindSpore that know it.
    """

    beta1: float
    beta2: float
    eps: float
    epsilon_hat: bool
    bias_correction: bool
    nesterov: bool
    amsgrad: bool
    decoupled: bool
    loss_scale: float
    max_grad_norm: Optional[float]
    maximize: bool
    lazy: bool
    on_host: bool
    use_locking: bool


def check_bool(owner, name, value):
    """Raise TypeError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(_wrong_type(owner, name, value, "True or False"))


def check_decay_rate(owner, name, value):
    """Raise TypeError unless `value` is a float, ValueError unless it is in [0, 1)."""
    _check_float(owner, name, value)
    if not 0.0 <= value < 1.0:
        raise ValueError(_wrong_value(owner, name, value, "in the range [0.0, 1.0)"))


def check_positive(owner, name, value):
    """Raise TypeError unless `value` is a float, ValueError unless it is finite and above 0."""
    _check_float(owner, name, value)
    if not 0.0 < value < math.inf:
        raise ValueError(_wrong_value(owner, name, value, "finite and greater than 0"))


def unpack_betas(class_name, betas):
    """Returns beta1 and beta2; raises TypeError unless `betas` is a pair."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(_wrong_type(class_name, "betas", betas, "two floats, beta1 and beta2"))
    return tuple(betas)


def check_choice(owner, name, value, allowed):
    """Raise TypeError unless `value` is a string, ValueError unless it is one of `allowed`."""
    choices = ", ".join(repr(choice) for choice in allowed)
    if not isinstance(value, str):
        raise TypeError(_wrong_type(owner, name, value, f"one of {choices}"))
    if value not in allowed:
        raise ValueError(_wrong_value(owner, name, value, f"one of {choices}"))


def _check_float(owner, name, value):
    if not isinstance(value, float):
        raise TypeError(_wrong_type(owner, name, value, "a float"))


def _wrong_type(owner, name, value, allowed):
    return (
        f"For '{owner}', the argument '{name}' must be {allowed}, but got {value!r} of type "
        f"{type(value).__name__}."
    )


def _wrong_value(owner, name, value, allowed):
    return f"For '{owner}', the argument '{name}' must be {allowed}, but got {value!r}."
