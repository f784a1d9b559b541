"""What ``ms-adam reproduce`` runs: studies, each with a form of config, a run and a page."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from ms_adam.lab.run.config import ConfigError, Section

# Is called with: a config's name, what is running, steps done, steps in all; for many short runs
# also with `slot` and `whole`, see `progress.ProgressDisplay`.
Progress = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Session:
    """What a run is given besides its configs."""

    out: Path  # the folder to write to; the study makes it, when its data are loaded
    progress: Progress
    tell: Callable[[str], None]  # shows a message to the user
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # given, without hyphens


def verdicts_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Collects the verdicts of all results, each a `claims.Verdict` as a dict."""
    return [verdict for entry in content["results"] for verdict in entry.get("verdicts", ())]


@dataclasses.dataclass(frozen=True)
class Study:
    """A study: what one value of a config's key ``study`` means."""

    name: str  # the value of the key
    config: type[Section]  # the form of its configs
    # Carries out all configs of this study, writes into `Session.out`, and returns the content of
    # the study's results file: ``schema``, ``environment``, ``results``.
    run: Callable[[Sequence[Any], Session], dict[str, Any]]
    # "module:function"; called with the folder after the run, it writes the page or picture and
    # returns its path, or None if there is nothing to show. None: no page.
    page: Optional[str] = None
    # That it understands, of: scale, jobs, tensorboard, resume, kills, every, seed, mode.
    options: tuple[str, ...] = ()
    verdicts: Callable[[dict[str, Any]], list[dict[str, Any]]] = verdicts_of  # of the content
    summary: Callable[[dict[str, Any]], str] = lambda content: ""  # a line on it for the user

    def write_page(self, folder: Path) -> Optional[Path]:
        """Writes the page of a finished run; see `page`."""
        if self.page is None:
            return None
        module, _, function = self.page.partition(":")
        return getattr(importlib.import_module(module), function)(folder)


class Done(NamedTuple):
    """A study that was carried out."""

    study: Study
    folder: Path  # where it wrote
    content: dict[str, Any]  # what its run returned
    page: Optional[Path]


def run_studies(found: Sequence[tuple[Study, Any]], session: Session) -> list[Done]:
    """Carries out configs, each with its study from `studies.find`, grouped by study.

    One study writes to `Session.out` itself, several write to folders of their names in it.

    Raises ConfigError if two configs of a study have one name: results are written under it.
    """
    groups: dict[str, tuple[Study, list[Any]]] = {}
    for study, config in found:
        groups.setdefault(study.name, (study, []))[1].append(config)
    for _, configs in groups.values():
        names = [config.name for config in configs]
        if len(set(names)) != len(names):
            raise ConfigError(f"each config needs a name of its own; there are {', '.join(names)}")
    done = []
    for study, configs in groups.values():
        folder = session.out if len(groups) == 1 else session.out / study.name
        content = study.run(configs, dataclasses.replace(session, out=folder))
        done.append(Done(study, folder, content, study.write_page(folder)))
    return done
