"""An experiment of a few steps on the images of idx_files, for tests."""


def small_config():
    return {
        "study": "images",
        "name": "small",
        "title": "Four quarters",
        "data": {"idx_directory": ".", "train": 80, "test": 40, "split_seed": 0},
        "model": {"hidden": [8]},
        "training": {"epochs": 2, "batch_size": 20},
        # A large eps, so that a few steps show where it stands.
        "adam": {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-4},
        "compare": {
            "optimizers": ["ms_adam.Adam", "mindspore.nn.Adam"],
            "modes": ["graph", "pynative"],
            "seeds": [0, 1],
            "least_accuracy": 0.25,
        },
    }
