"""How one update is carried out. All backends have the same arguments, inputs and outputs."""

from ms_adam.backends.composite import Composite
from ms_adam.backends.primitive import Primitive

# In the order in which "auto" tries them: the fastest first.
BACKENDS = {"primitive": Primitive, "composite": Composite}
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
    if name == "auto":
        return next(candidate for candidate, backend in BACKENDS.items()
                    if backend.obstacle(formula, weights, device_target) is None)
    obstacle = BACKENDS[name].obstacle(formula, weights, device_target)
    if obstacle is not None:
        raise ValueError(f"For '{owner}', backend='{name}' cannot run here: {obstacle}.")
    return name
