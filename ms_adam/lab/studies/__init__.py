"""One module or folder for each study: its config, what it runs and what it claims."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # studies.matrix runs where pydantic is not installed
    from ms_adam.lab.run.study import Study

# The values of a config's key `study`, and the module that exposes STUDY. A module is imported only
# when one of its configs is given.
STUDIES = {
    "images": "ms_adam.lab.studies.images.study",
    "text": "ms_adam.lab.studies.text.study",
    "paper": "ms_adam.lab.studies.paper.study",
    "ranks": "ms_adam.lab.studies.ranks.study",
    "narrow": "ms_adam.lab.studies.narrow",
    "resume": "ms_adam.lab.studies.resume.study",
    "trajectories": "ms_adam.lab.studies.trajectories.study",
}


def study(name: str) -> Study:
    """Returns a study by its name, which is a key of `STUDIES`."""
    return importlib.import_module(STUDIES[name]).STUDY


def find(path: Path) -> tuple[Study, Any]:
    """Finds the study of a config, and reads and checks the config.

    Raises ConfigError if the file names no study that there is, or is refused by `config.load`.
    """
    from ms_adam.lab.run import config

    content = config.read(path)
    name = content.get("study") if isinstance(content, dict) else None
    if not isinstance(name, str) or name not in STUDIES:
        given = "the key 'study' is missing" if name is None else f"study = {name!r}"
        raise config.ConfigError(
            f"{path}: this config cannot be used:\n  {given}: must be one of {', '.join(STUDIES)}"
        )
    found = study(name)
    return found, config.load(path, found.config)


def refuse_unknown_options(studies: Iterable[Study], options: Iterable[str]) -> None:
    """Raises ConfigError if a study does not understand an option that was given."""
    from ms_adam.lab.run.config import ConfigError

    for option in options:
        for one in studies:
            if option not in one.options:
                knowing = [name for name in STUDIES if option in study(name).options]
                raise ConfigError(
                    f"--{option}: the study {one.name} does not understand it; "
                    f"only {', '.join(knowing)} does"
                )
