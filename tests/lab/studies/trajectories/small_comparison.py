"""Short comparisons for tests, and how to run them."""

from lab.run.changed_configs import write

from ms_adam.lab.run.config import load
from ms_adam.lab.run.study import Session
from ms_adam.lab.studies.trajectories.config import Comparison
from ms_adam.lab.studies.trajectories.study import run


def small(**changes):
    """A complete config of one function and one optimizer, with these keys in place of its own."""
    return {
        "study": "trajectories",
        "name": "small",
        "title": "one path",
        "functions": [{"function": "sphere", "start": [3, 4], "x": [-5, 5], "y": [-5, 5]}],
        "optimizers": [
            {"name": "SGD", "method": "SGD", "options": {"learning_rate": 0.2}, "steps": 5}
        ],
        "mindspore": False,
        "figure": {"panels": "functions", "columns": 1},
        **changes,
    }


def linear(**changes):
    """The same for a linear fit."""
    without = {key: value for key, value in small().items() if key not in ("functions", "figure")}
    fit = {
        "points": 100,
        "weights": [0.5, 0.8],
        "noise": 0.01,
        "batch_size": 32,
        "epochs": 3,
        "seed": 0,
        "start": [0, 0],
    }
    optimizers = [{"name": "SGD", "method": "SGD"}]
    return {**without, "optimizers": optimizers, "linear_fit": {**fit, **changes}}


def load_keys(folder, keys):
    """Loads a config of these keys from a file in a folder."""
    return load(write(folder, keys), Comparison)


def run_in(folder, *configs, progress=lambda *_: None, tell=print):
    """Runs configs; returns the content of trajectories.json."""
    return run(configs, Session(folder, progress, tell))
