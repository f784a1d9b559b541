"""An experiment of a few steps on real snippets, for tests."""

SIDES = [
    "exact",
    "exact_rows",
    "exact_pynative",
    "lazy",
    "lazy_pynative",
    "lazy_epsilon_hat",
    "nn_lazy",
    "nn_lazy_default",
]


def text_config():
    return {
        "study": "text",
        "name": "few",
        "title": "A few snippets",
        "data": {"words": 300, "train": 200, "test": 100, "split_seed": 0},
        "model": {"width": 4},
        "training": {"epochs": 2, "batch_size": 20},
        # A large eps, so that a few steps show where it stands.
        "adam": {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-4},
        "compare": {"sides": SIDES, "seeds": [0, 1], "least_accuracy": 0.3},
    }
