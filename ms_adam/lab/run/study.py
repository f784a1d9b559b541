"""What ``ms-adam reproduce`` runs: studies, each with a form of config, a run and a page."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from ms_adam.lab.run.config import Section

# Is called with: a config's name, what is running, steps done, steps in all; for many short runs
# also with `slot` and `whole`, see `progress.ProgressDisplay`.
Progress = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Session:
    """What a run is given besides its configs.

    Attributes:
        out: The folder to write to. The study makes it, when its data are loaded.
        progress: Called while runs go on.
        tell: Shows a message to the user.
        options: The command's options that the user gave, by their names without hyphens.
    """

    out: Path
    progress: Progress
    tell: Callable[[str], None]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def verdicts_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Collects the verdicts of all results, each a `claims.Verdict` as a dict."""
    return [verdict for entry in content["results"] for verdict in entry.get("verdicts", ())]


@dataclasses.dataclass(frozen=True)
class Study:
    """A study: what one value of a config's key ``study`` means.

    Attributes:
        name: The value of the key.
        config: The form of its configs.
        run: Carries out all configs of this study, writes into `Session.out`, and returns the
            content of the study's results file: ``schema``, ``environment``, ``results``.
        page: "module:function"; called with the folder after the run, it writes the page or picture
            and returns its path, or None if there is nothing to show. None: no page.
        options: The command's options that it understands, of: scale, jobs, tensorboard, resume,
            kills, every, seed, mode.
        verdicts: Takes the content; returns the verdicts.
        summary: Takes the content; returns a line for the user, or "".
    """

    name: str
    config: type[Section]
    run: Callable[[Sequence[Any], Session], dict[str, Any]]
    page: Optional[str] = None
    options: tuple[str, ...] = ()
    verdicts: Callable[[dict[str, Any]], list[dict[str, Any]]] = verdicts_of
    summary: Callable[[dict[str, Any]], str] = lambda content: ""

    def write_page(self, folder: Path) -> Optional[Path]:
        """Writes the page of a finished run; see `page`."""
        if self.page is None:
            return None
        module, _, function = self.page.partition(":")
        return getattr(importlib.import_module(module), function)(folder)


class Done(NamedTuple):
    """A study that was carried out.

    Attributes:
        study: The study.
        folder: Where it wrote.
        content: What its run returned.
        page: The page that was written, if any.
    """

    study: Study
    folder: Path
    content: dict[str, Any]
    page: Optional[Path]


def run_studies(found: Sequence[tuple[Study, Any]], session: Session) -> list[Done]:
    """Carries out configs, grouped by study.

    Args:
        found: The study and the checked config of each file; see `studies.find`.
        session: One study writes to `Session.out` itself, several write to folders of their names
            in it.
    """
    groups: dict[str, tuple[Study, list[Any]]] = {}
    for study, config in found:
        groups.setdefault(study.name, (study, []))[1].append(config)
    done = []
    for study, configs in groups.values():
        folder = session.out if len(groups) == 1 else session.out / study.name
        content = study.run(configs, dataclasses.replace(session, out=folder))
        done.append(Done(study, folder, content, study.write_page(folder)))
    return done
