"""A training of a few steps on the images of idx_files, for tests."""

from pathlib import Path

import yaml
from lab.problems.idx_files import write_part

from ms_adam.lab.studies import find


def training_config(**sections):
    """The content of a config; `sections` change keys, as optimizer={"eps": 1e-4}."""
    config = {
        "study": "resume",
        "name": "small",
        "title": "Four quarters",
        "data": {"idx_directory": ".", "train": 80, "test": 40, "split_seed": 0},
        "model": {"hidden": [8]},
        "training": {"epochs": 6, "batch_size": 20, "seed": 3},
        "optimizer": {
            "name": "AdamW",
            "learning_rate": 0.01,
            "learning_rate_decay": "cosine",
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "max_grad_norm": None,
            "use_nesterov": False,
            "use_amsgrad": False,
            "epsilon_hat": False,
            "bias_correction": True,
            "backend": "auto",
            "flat_state": False,
        },
        "checkpoints": {"every_steps": 5, "keep": 3},
    }
    for section, values in sections.items():
        config[section] = {**config[section], **values} if isinstance(values, dict) else values
    return config


def write_config(folder: Path, **sections) -> Path:
    """Writes images and config; the path of the config."""
    if not (folder / "train-images-idx3-ubyte").exists():
        write_part(folder, "train", 120)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(training_config(**sections)))
    return path


def small_run(folder: Path, **sections):
    return find(write_config(folder, **sections))[1]
