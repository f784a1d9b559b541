"""How far optimizers end from the paper's formula: `python -m ms_adam.lab.studies.matrix.accuracy`.

Parameters start at 0, so that the displacement is the parameter, and follow gradients of normal
distribution; the float64 reference is given the same gradients.
"""

import numpy as np

STEPS = (1, 10, 100, 1000)
SCALES = (1.0, 1e-4, 1e-8)


def displacements(make, scale, steps=STEPS, size=64):
    """Where an optimizer takes a parameter that starts at 0.

    Args:
        make: function of a list of Parameters that returns an optimizer.
        scale: standard deviation of the gradients.
        steps: after how many steps to look.
        size: elements of the parameter.

    Returns:
        The places, a list of float64 arrays, and the gradients given, likewise.
    """
    import mindspore as ms
    from mindspore import Parameter, Tensor

    parameter = Parameter(Tensor(np.zeros(size), ms.float32), name="w")
    optimizer = make([parameter])
    rng = np.random.default_rng(3)
    places, fed = [], []
    for t in range(1, max(steps) + 1):
        gradient = Tensor(scale * rng.standard_normal(size), ms.float32)
        fed.append(np.array(gradient.asnumpy(), np.float64))
        optimizer((gradient,))
        if t in steps:
            places.append(np.array(parameter.asnumpy(), np.float64))
    return places, fed


def follow(method, fed, steps=STEPS):
    """Where a method of `ms_adam.reference` goes with the same gradients."""
    weight = np.zeros_like(fed[0])
    state, places = method.init(weight), []
    for t, gradient in enumerate(fed, 1):
        weight, state = method.step(weight, gradient, state)
        if t in steps:
            places.append(weight)
    return places


def relative(got, want):
    """The largest error of any element over the largest displacement of any."""
    return np.max(np.abs(got - want)) / np.max(np.abs(want))


def main():
    """Prints the distances of our backends and of `nn.Adam` to Algorithm 1 and to epsilon-hat."""
    from mindspore import nn
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    import ms_adam
    from ms_adam import reference
    from ms_adam.backends import BACKENDS

    rate = float(np.float32(1e-3))  # as nn.Optimizer keeps it
    sides = {
        f"ms_adam.Adam, {name}": (lambda p, name=name: ms_adam.Adam(p, backend=name), "outside")
        for name in BACKENDS
    }
    sides["mindspore.nn.Adam"] = (nn.Adam, "outside")
    sides["ms_adam.Adam(epsilon_hat=True)"] = (lambda p: ms_adam.Adam(p, epsilon_hat=True), "hat")
    sides["mindspore.nn.Adam, to epsilon-hat"] = (nn.Adam, "hat")
    table = Table(
        "optimizer", "gradients", *(f"{t} steps" for t in STEPS), title="Relative error to float64"
    )
    jobs = [(side, scale) for side in sides for scale in SCALES]
    for side, scale in track(jobs, "1,000 steps each", transient=True):
        make, epsilon = sides[side]
        places, fed = displacements(make, scale)
        wanted = follow(reference.Adam(rate, epsilon=epsilon), fed)
        table.add_row(
            side, f"{scale:g}", *(f"{relative(got, want):.1e}" for got, want in zip(places, wanted))
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
