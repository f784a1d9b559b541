"""How one update is carried out. All backends have the same arguments, inputs and outputs."""

import functools
from typing import Any, Dict, List, Sequence, Tuple

from mindspore import Parameter, log

from ms_adam.backends.composite import Composite
from ms_adam.backends.fused import Fused
from ms_adam.backends.packing import KernelPacking, OperatorPacking
from ms_adam.backends.primitive import Primitive
from ms_adam.options import Execution, Formula
from ms_adam.state import WeightKind

# In the order in which "auto" tries them: the fastest first.
BACKENDS: Dict[str, Any] = {"fused": Fused, "primitive": Primitive, "composite": Composite}
CHOICES = ("auto", *BACKENDS)
_MANY = 50  # parameters, for which a row of them all is far quicker than each by itself


def choose(
    class_name: str,
    formula: Formula,
    execution: Execution,
    weights: Sequence[WeightKind],
    device_target: str,
) -> str:
    """Returns the name of the backend that is to run.

    Args:
        execution: an `Execution`; its backend is the choice of the user.
        weights: the `WeightKind` of each weight to be updated.

    Raises:
        ValueError: If a backend is asked for by name that cannot run, or none can; the message says
            why.
    """
    wanted = execution.backend
    able = [
        name
        for name, backend in BACKENDS.items()
        if backend.capabilities.flat_state or not execution.flat
    ]
    if wanted != "auto" and wanted not in able:
        names = " or ".join(map(repr, able))
        raise ValueError(
            f"For '{class_name}', flat_state=True is for backend={names}, but got "
            f"backend='{wanted}'."
        )
    candidates = able if wanted == "auto" else [wanted]
    obstacles: Dict[str, str] = {}
    for name in candidates:
        obstacle = BACKENDS[name].obstacle(formula, execution, weights, device_target)
        if obstacle is None:
            for other, why in obstacles.items():
                if device_target in (BACKENDS[other].capabilities.devices or ()):
                    _warn_once(f"ms_adam runs without its {other} kernel, slower: {why}.")
            rows = execution._replace(flat=True)
            if (
                wanted == "auto"
                and BACKENDS[name].capabilities.flat_by_row
                and not execution.flat
                and len(weights) >= _MANY
                and BACKENDS[name].obstacle(formula, rows, weights, device_target) is None
            ):
                _warn_once(
                    f"ms_adam launches some 12 operators for each of {len(weights)} parameters "
                    "here; flat_state=True launches one for each, and has the same bits."
                )
            return name
        obstacles[name] = obstacle
    if len(candidates) == 1:
        raise ValueError(
            f"For '{class_name}', backend='{candidates[0]}' cannot run here: "
            f"{obstacles[candidates[0]]}."
        )
    here = {
        name: why
        for name, why in obstacles.items()
        if device_target in (BACKENDS[name].capabilities.devices or (device_target,))
    }
    reasons = sorted(set(here.values()))
    if len(reasons) > 1:
        reasons = [f"'{name}': {why}" for name, why in here.items()]
    raise ValueError(f"For '{class_name}', no backend can run here: {'; '.join(reasons)}.")


def packing_for(
    class_name: str,
    backend: str,
    parameters: Sequence[Parameter],
    weights: Sequence[Parameter],
    device_target: str,
) -> List[Tuple[Any, List[int]]]:
    """Returns how parameters that a backend has updated are packed, to be sent to other ranks.

    Args:
        parameters: on all ranks the same ones.
        weights: for each, its master weight if there is one on this rank, else the parameter; the
            same tuple as `parameters` without master weights.

    Returns:
        [(packing, places of the parameters in a row of its own)], in one order on all ranks. Empty
        parameters are in none.

    Raises:
        ValueError: If they cannot be packed there.
    """
    has_masters = weights is not parameters
    places = [i for i, parameter in enumerate(parameters) if parameter.size > 0]
    if BACKENDS[backend].capabilities.divides_rows:
        return [(KernelPacking(), places)] if places else []
    for i in places:
        if OperatorPacking.cannot_read(parameters[i].dtype, has_masters, device_target):
            able = " or ".join(
                repr(name) for name, other in BACKENDS.items() if other.capabilities.divides_rows
            )
            raise ValueError(
                f"For '{class_name}', shard_state=True with backend='{backend}' cannot send the "
                f"parameter '{parameters[i].name}' of {parameters[i].dtype} on the CPU exactly; "
                f"backend={able} can, and for bfloat16 master_weights=True."
            )
    alike: Dict[Any, List[int]] = {}
    for i in places:
        alike.setdefault(OperatorPacking.sent_as(parameters[i].dtype), []).append(i)
    return [
        (OperatorPacking(dtype, device_target, [weights[i] for i in places]), places)
        for dtype, places in sorted(alike.items(), key=lambda item: str(item[0]))
    ]


@functools.lru_cache(maxsize=None)
def _warn_once(message):
    log.warning(message)
