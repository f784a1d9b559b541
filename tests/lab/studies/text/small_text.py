"""An experiment on a few snippets, and a row of its results, for tests."""

from ms_adam.lab.studies.text.sides import SIDES


def text_config():
    """An experiment of a few steps on real snippets."""
    return {
        "study": "text",
        "name": "few",
        "title": "A few snippets",
        "data": {"words": 300, "train": 200, "test": 100, "split_seed": 0},
        "model": {"width": 4},
        "training": {"epochs": 2, "batch_size": 20},
        # A large eps, so that a few steps show where it stands.
        "adam": {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-4},
        "compare": {"sides": list(SIDES), "seeds": [0, 1], "least_accuracy": 0.3},
    }


def row(side, seed=0, **changes):
    """The columns of a run."""
    return {
        "side": side,
        "label": f"{side} label",
        "seed": seed,
        "mode": "graph",
        "file": f"{side}_seed{seed}.npz",
        "backend": "fused",
        "seconds": 3.0,
        "steps": 4,
        "final_loss": 0.4321,
        "test_loss": 0.5678,
        "test_accuracy": 0.75,
        "step_ms": [1.0, 1.0],
        "follower": None,
        **changes,
    }
