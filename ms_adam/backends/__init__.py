"""How one update is carried out. All backends have the same arguments, inputs and outputs."""

import functools

from mindspore import log

from ms_adam.backends.composite import Composite
from ms_adam.backends.fused import Fused
from ms_adam.backends.packing import KernelPacking, OperatorPacking
from ms_adam.backends.primitive import Primitive

# In the order in which "auto" tries them: the fastest first.
BACKENDS = {"fused": Fused, "primitive": Primitive, "composite": Composite}
CHOICES = ("auto", *BACKENDS)


def choose(owner, name, formula, weights, device_target):
    """The name of the backend that is to run.

    Args:
        owner: the caller's class name, for error messages.
        name: one of `CHOICES`.
        formula: a `Formula`.
        weights: the `state.WeightKind` of each weight to be updated.
        device_target: "CPU", "GPU" or "Ascend".

    Raises:
        ValueError: If a backend is asked for by name that cannot run, or none can; the message says
            why.
    """
    if name != "auto":
        obstacle = BACKENDS[name].obstacle(formula, weights, device_target)
        if obstacle is not None:
            raise ValueError(f"For '{owner}', backend='{name}' cannot run here: {obstacle}.")
        return name
    for name, backend in BACKENDS.items():
        obstacle = backend.obstacle(formula, weights, device_target)
        if obstacle is None:
            return name
        if name == "fused" and device_target == "CPU":
            _say_once(f"ms_adam runs without its fused kernel, slower: {obstacle}.")
    # The last one is the one that runs for everything that the device can hold.
    raise ValueError(f"For '{owner}', no backend can run here: {obstacle}.")


def packing_for(class_name, name, parameters, weights, device_target):
    """How parameters that a backend has updated are packed, to be sent to other ranks.

    Args:
        class_name: the optimizer's class name, for error messages.
        name: of the backend.
        parameters: on all ranks the same ones.
        weights: for each, its master weight if there is one on this rank, else the parameter; the
            same tuple as `parameters` without master weights.
        device_target: "CPU", "GPU" or "Ascend".

    Returns:
        [(packing, places of the parameters in a row of its own)], in one order on all ranks. Empty
        parameters are in none.

    Raises:
        ValueError: If they cannot be packed there.
    """
    has_masters = weights is not parameters
    places = [i for i, parameter in enumerate(parameters) if parameter.size > 0]
    if name == "fused":
        return [(KernelPacking(), places)] if places else []
    for i in places:
        if OperatorPacking.cannot_read(parameters[i].dtype, has_masters, device_target):
            raise ValueError(
                f"For '{class_name}', shard_state=True with backend='{name}' cannot send the "
                f"parameter '{parameters[i].name}' of {parameters[i].dtype} on the CPU exactly; "
                "backend='fused' can, and for bfloat16 master_weights=True."
            )
    alike = {}
    for i in places:
        alike.setdefault(OperatorPacking.sent_as(parameters[i].dtype), []).append(i)
    return [
        (OperatorPacking(dtype, device_target, [weights[i] for i in places]), places)
        for dtype, places in sorted(alike.items(), key=lambda item: str(item[0]))
    ]


@functools.lru_cache(maxsize=None)
def _say_once(message):
    log.warning(message)
