"""The sections of a config, and how its YAML file is read: checked before anything runs."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union

import pydantic
import yaml
from pydantic import BeforeValidator, ConfigDict, Field

from ms_adam.lab.errors import ExperimentError

Mode = Literal["graph", "pynative"]

_ANY = "*"  # in a path of keys: any name of a mapping, any place in a list


class ConfigError(ExperimentError):
    """A config that is not complete, not known or not possible."""


def _no_bool(value: Any) -> Any:
    # YAML reads `yes` and `on` as True, and Python counts True as 1.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


def _no_repetition(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("each entry may stand only once")
    return values


Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
Seed = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # also a folder's name
Text = Annotated[str, Field(min_length=1)]
Once = pydantic.AfterValidator(_no_repetition)


def _from_config(path: Path, info: pydantic.ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path if folder is None else (folder / path.expanduser()).resolve()


# A relative path is taken from the folder of the config, when `load` reads it.
Folder = Annotated[Path, pydantic.AfterValidator(_from_config)]


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(item) for item in value]
    return value.name if isinstance(value, Path) else value


class Section(pydantic.BaseModel):
    """A mapping of a config: every key is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def public(self) -> dict[str, Any]:
        """Returns plain values for results files: of a path only the name."""
        return _without_folders(self.model_dump())


class StudyConfig(Section):
    """The outermost section of a config that ``ms-adam reproduce`` takes.

    A form says which study it is for by ``study: Literal["images"]``.

    Attributes:
        folder: That of the YAML file, for what a config names relative to it; not a key.
    """

    study: str
    name: Name
    title: Text

    _folder: Path = pydantic.PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        return self._folder


AnySection = TypeVar("AnySection", bound=Section)


class Data(Section):
    """The images, and how they are divided."""

    idx_directory: Optional[Folder]
    train: Count
    test: Count
    split_seed: Seed


class Model(Section):
    """A multi-layer perceptron: the units of each hidden layer."""

    hidden: list[Count]


class Training(Section):
    """Number of epochs, and of examples in a batch."""

    epochs: Count
    batch_size: Count


class AdamSettings(Section):
    """Settings of both optimizers, under the names of ``mindspore.nn.Adam``."""

    learning_rate: Annotated[Number, Field(gt=0)]
    beta1: Annotated[Number, Field(gt=0, lt=1)]
    beta2: Annotated[Number, Field(gt=0, lt=1)]
    eps: Annotated[Number, Field(gt=0)]


class InBatches(StudyConfig):
    """A config with ``data`` that a ``training`` goes through in batches, epoch by epoch."""

    @pydantic.model_validator(mode="after")
    def _batch_fits(self) -> InBatches:
        if self.training.batch_size > self.data.train:
            raise ValueError(
                f"training.batch_size = {self.training.batch_size} is more than "
                f"data.train = {self.data.train}: there would be no batch"
            )
        return self

    @property
    def steps_per_epoch(self) -> int:
        return self.data.train // self.training.batch_size

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.training.epochs


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice (YAML lets the last one win)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path, form: type[AnySection]) -> AnySection:
    """Reads and checks one config.

    Args:
        path: A YAML file with the keys of `form` and no other.
        form: What the file describes.

    Returns:
        An object of `form`.

    Raises:
        ConfigError: The file is not there, is not YAML, or a key is unknown, missing or has a
            value that is not allowed. The message names the file, the key and the value.
    """
    content = read(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping with the keys {_keys(form)}")
    try:
        config = form.model_validate(content, context={"folder": path.parent})
        if isinstance(config, StudyConfig):
            config._folder = path.parent
        return config
    except pydantic.ValidationError as error:
        lines = [f"  {_explain(problem, form)}" for problem in error.errors()]
        raise ConfigError("\n".join([f"{path}: this config cannot be used:", *lines])) from None


def read(path: Path) -> Any:
    """What a YAML file holds, unchecked.

    Raises:
        ConfigError: The file is not there or is not YAML, or a key in it stands twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; a YAML file is needed") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {_one_line(error)}") from None


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def _keys(section: type) -> str:
    return ", ".join(section.model_fields)


def _explain(problem: dict, form: type) -> str:
    """One line for a person: the key, its value, and what is allowed."""
    where = problem["loc"]
    key = ".".join(str(part) for part in where)
    if problem["type"] == "extra_forbidden":
        return (
            f"unknown key '{key}'; allowed here: {_keys(_section_at(where[:-1], form))}"
            f"{_belongs(where, form)}"
        )
    if problem["type"] == "missing":
        return f"the key '{key}' is missing"
    message = problem["msg"].replace("Value error, ", "")
    if problem["type"] in ("model_type", "model_attributes_type"):
        message = f"must be a mapping with the keys {_keys(_section_at(where, form))}"
    if not key:
        return message
    return f"{key} = {_shown(problem['input'])}: {message[0].lower()}{message[1:]}"


def _belongs(where: tuple, form: type) -> str:
    """Where a key that is unknown in its place is known, as the end of an error message."""
    *above, key = where
    places = [place for place in _places(key, form) if not _matches(place, above)]
    if not places:
        return ""
    home = f"'{above[-1]}'" if above else "the top level"
    there = dict.fromkeys(
        f"under '{'.'.join(place)}'" if place else "at the top level" for place in places
    )
    return f". '{key}' is not a key of {home}; it belongs {' or '.join(there)}"


def _matches(place: tuple, path: list) -> bool:
    return len(place) == len(path) and all(
        name in (str(part), _ANY) for name, part in zip(place, path)
    )


def _places(key: str, form: type, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all sections of a config that have a key; the top level's is empty."""
    if key in form.model_fields:
        yield path
    for name, field in form.model_fields.items():
        for section, step in _sections(field.annotation):
            yield from _places(key, section, (*path, name, *step))


def _sections(annotation: Any, step: tuple = ()) -> Iterator[tuple[type, tuple]]:
    """The sections in the type of a key, each with what comes between it and the key."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation, step
        return
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, list):
        parts, step = parts[-1:], (*step, _ANY)
    elif origin is Annotated:
        parts = parts[:1]
    for part in parts:
        yield from _sections(part, step)


def _section_at(where: tuple, form: type) -> type:
    section: Any = form
    for part in where:
        if isinstance(section, type) and issubclass(section, Section):
            section = section.model_fields[part].annotation
        elif typing.get_origin(section) is Annotated:  # one of several sections, by its tag
            sections, field = typing.get_args(section)
            section = next(
                one
                for one in typing.get_args(sections)
                if part in typing.get_args(one.model_fields[field.discriminator].annotation)
            )
        else:  # of dict[str, Section] and list[Section] the last argument is what is in them
            section = typing.get_args(section)[-1]
        if typing.get_origin(section) is Union:  # Optional[Section]
            section = typing.get_args(section)[0]
    return section


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
