"""Checkpoints as other optimizers write them, made of one state, for tests."""

import numpy as np


def state_of(shapes, seed=3):
    """A state after some steps: {"moment1.layer0.weight": array, ...}."""
    rng = np.random.default_rng(seed)
    state = {}
    for i, shape in enumerate(shapes):
        first = rng.standard_normal(shape)
        second = rng.random(shape) + 1e-3
        for prefix, value in (("moment1", first), ("moment2", second), ("vhat", 2 * second)):
            state[f"{prefix}.layer{i}.weight"] = np.asarray(value, np.float32)
    return state


def without_maxima(state):
    return {name: value for name, value in state.items() if not name.startswith("vhat.")}


def renamed(state, moment1, moment2, vhat=None):
    names = {"moment1": moment1, "moment2": moment2, "vhat": vhat}
    return {
        f"{names[prefix]}.{rest}": value
        for prefix, rest, value in ((*name.split(".", 1), value) for name, value in state.items())
        if names[prefix]
    }


def torch_state_dict(state, step, count, amsgrad=False):
    """Laid out as torch.optim.Adam.state_dict() in torch 2, two groups, arrays for tensors."""
    keys = {"moment1": "exp_avg", "moment2": "exp_avg_sq"}
    keys.update({"vhat": "max_exp_avg_sq"} if amsgrad else {})
    settings = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": amsgrad,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
    }
    return {
        "state": {
            i: {
                "step": np.array(step, np.float32),
                **{theirs: state[f"{ours}.layer{i}.weight"] for ours, theirs in keys.items()},
            }
            for i in range(count)
        },
        "param_groups": [
            {**settings, "params": [0, 1]},
            {**settings, "params": list(range(2, count))},
        ],
    }
