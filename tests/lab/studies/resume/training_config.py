"""A training of a few steps on the images of idx_files, for tests."""

from pathlib import Path

import yaml
from lab.problems.idx_files import write_part

from ms_adam.lab.studies import find

SHIPPED = Path(__file__).parents[4] / "configs" / "resume.yaml"
SMALL = {
    "name": "small",
    "title": "Four quarters",
    "data": {"idx_directory": ".", "train": 80, "test": 40},
    "model": {"hidden": [8]},
    "training": {"epochs": 6, "batch_size": 20, "seed": 3},
    "optimizer": {"learning_rate": 0.01},
    "checkpoints": {"every_steps": 5},
}


def write_config(folder: Path, **sections) -> Path:
    """Writes images and config; `sections` change keys, as optimizer={"eps": 1e-4}."""
    if not (folder / "train-images-idx3-ubyte").exists():
        write_part(folder, "train", 120)
    config = yaml.safe_load(SHIPPED.read_text())
    for key, values in [*SMALL.items(), *sections.items()]:
        config[key] = {**config[key], **values} if isinstance(values, dict) else values
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def small_run(folder: Path, **sections):
    return find(write_config(folder, **sections))[1]
