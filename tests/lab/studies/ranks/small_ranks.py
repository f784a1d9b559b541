"""A data-parallel training of a few steps, for tests."""


def ranks_config(**changes):
    """The content of a config; `changes` replace keys."""
    return {
        "study": "ranks",
        "name": "few",
        "title": "A few steps",
        "workers": [2],
        "modes": ["graph"],
        "problems": [
            {"name": "images", "train": 300, "hidden": [16]},
            {"name": "words", "train": 200, "words": 300, "width": 4},
        ],
        "optimizers": [{"name": "AdamW", "learning_rate": 0.001, "weight_decay": 0.01}],
        "steps": 30,
        "batch_size": 20,
        "seed": 0,
        "checkpoints": {"every_steps": 5, "keep": 2},
        "message_sizes": [10, 1000],
        **changes,
    }
