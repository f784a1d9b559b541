"""How one update is carried out. All backends have the same arguments, inputs and outputs."""

import functools

from mindspore import log

from ms_adam.backends.composite import Composite
from ms_adam.backends.fused import Fused
from ms_adam.backends.primitive import Primitive

# In the order in which "auto" tries them: the fastest first.
BACKENDS = {"fused": Fused, "primitive": Primitive, "composite": Composite}
CHOICES = ("auto", *BACKENDS)


def choose(owner, name, formula, weights, device_target):
    """The name of the backend that is to run.

    Args:
        owner: who asks, for the error message.
        name: one of `CHOICES`.
        formula: a `Formula`.
        weights: the weights to be updated.
        device_target: "CPU", "GPU" or "Ascend".

    Raises:
        ValueError: If a backend is asked for by name that cannot run; the message says why.
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


@functools.lru_cache(maxsize=None)
def _say_once(message):
    log.warning(message)
