"""The kinds of experiments that ``ms-adam reproduce`` runs; a config's key ``kind`` tells which."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable

from ms_adam.lab.run import config
from ms_adam.lab.studies.images import runner as images
from ms_adam.lab.studies.images.config import Experiment
from ms_adam.lab.studies.images.config import load_experiment as load_images
from ms_adam.lab.studies.text import runner as sparse_text
from ms_adam.lab.studies.text.config import TextExperiment


@dataclasses.dataclass(frozen=True)
class Kind:
    """How one kind of experiment is carried out.

    Attributes:
        form: What its config becomes: a section with a ``name``.
        load: Reads and checks the config at a path.
        prepare: Loads an experiment's data, before anything runs.
        run_workers: Trains; is given the experiment, a folder and a `mode_runs.Progress`, and
            returns the facts of each run, of which ``device_target`` is one.
        evaluate: Makes the experiment's entry in ``results.json``; is given the experiment, its
            data, the folder and the facts.
    """

    form: type
    load: Callable[[Path], Any]
    prepare: Callable[[Any], Any]
    run_workers: Callable[..., list]
    evaluate: Callable[..., dict]


KINDS = {
    "images": Kind(Experiment, load_images, images.prepare, images.run_workers, images.evaluate),
    "sparse_text": Kind(
        TextExperiment,
        lambda path: config.load(path, TextExperiment),
        sparse_text.prepare,
        sparse_text.run_workers,
        sparse_text.evaluate,
    ),
}


def load_experiment(path: Path) -> Any:
    """Reads and checks a config of any kind; one without the key ``kind`` is of images.

    Raises:
        ConfigError: As `config.load`; or there is no such kind.
    """
    content = config.read(path)
    kind = content.get("kind", "images") if isinstance(content, dict) else "images"
    if not isinstance(kind, str) or kind not in KINDS:
        raise config.ConfigError(
            f"{path}: this config can not be used:\n  kind = {kind!r}: must be one of "
            f"{', '.join(KINDS)}"
        )
    return KINDS[kind].load(path)


def kind_of(experiment: Any) -> Kind:
    """The kind of an experiment that `load_experiment` returned."""
    return next(kind for kind in KINDS.values() if isinstance(experiment, kind.form))
