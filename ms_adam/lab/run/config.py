"""The sections of a config, and how its YAML file is read: checked before anything runs."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar

import pydantic
import yaml
from pydantic import BeforeValidator, ConfigDict, Field

from ms_adam.lab.errors import ExperimentError

Mode = Literal["graph", "pynative"]
Backend = Literal["auto", "fused", "primitive", "composite"]  # `ms_adam.backends.CHOICES`


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
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Rate = Annotated[Number, Field(ge=0, lt=1)]  # of decay or dropout
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # also a folder's name
Text = Annotated[str, Field(min_length=1)]
Once = pydantic.AfterValidator(_no_repetition)
Seeds = Annotated[list[Seed], Field(min_length=1), Once]
Modes = Annotated[list[Mode], Field(min_length=1), Once]


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
    """A mapping of a config: every key is known, and it is refused for the first of its faults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def faults(self) -> Iterator[str]:
        """Yields what is wrong with the values together."""
        yield from ()

    @pydantic.model_validator(mode="after")
    def _sound(self) -> Section:
        for fault in self.faults():
            raise ValueError(fault)
        return self

    def public(self) -> dict[str, Any]:
        """Returns plain values for results files: of a path only the name."""
        return _without_folders(self.model_dump())


class StudyConfig(Section):
    """The outermost section of a config of `reproduce`, which names its study.

    A form does so by ``study: Literal["images"]``.
    """

    study: str
    name: Name
    title: Text

    _folder: Path = pydantic.PrivateAttr(default=Path())

    def model_post_init(self, context: Optional[dict[str, Any]]) -> None:
        self._folder = (context or {}).get("folder", Path())

    @property
    def folder(self) -> Path:
        """That of the YAML file, for what a config names relative to it; not a key."""
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


class Checkpoints(Section):
    """The steps between checkpoints, and the number of files that are kept."""

    every_steps: Count
    keep: Annotated[Count, Field(ge=2)]  # a damaged newest file must leave another


class AdamSettings(Section):
    """Settings of both optimizers, under the names of ``mindspore.nn.Adam``."""

    learning_rate: Positive
    beta1: Annotated[Number, Field(gt=0, lt=1)]
    beta2: Annotated[Number, Field(gt=0, lt=1)]
    eps: Positive


class InBatches(StudyConfig):
    """A config with ``data`` that a ``training`` goes through in batches, epoch by epoch."""

    def faults(self) -> Iterator[str]:
        if self.training.batch_size > self.data.train:
            yield (
                f"training.batch_size = {self.training.batch_size} is more than "
                f"data.train = {self.data.train}: there would be no batch"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.data.train // self.training.batch_size

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.training.epochs


class OnImages(InBatches):
    """A config of trainings of a multi-layer perceptron on images."""

    data: Data
    model: Model
    training: Training
    adam: AdamSettings


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice (YAML lets the last one win)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        key_nodes, seen = [key_node for key_node, _ in node.value], set()
        mapping = super().construct_mapping(node, deep)  # refuses a key that is a list or mapping
        for key_node in key_nodes:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return mapping


def load(path: Path, form: type[AnySection]) -> AnySection:
    """Reads a YAML file, which must have the keys of `form` and no other.

    Raises:
        ConfigError: The file is not there, is not YAML, or a key is unknown, missing or has a
            value that is not allowed. The message names the file, the key and the value.
    """
    try:
        return form.model_validate(read(path), context={"folder": path.parent})
    except pydantic.ValidationError as error:
        lines = [f"\n  {_explain(problem, form)}" for problem in error.errors()]
        raise ConfigError(f"{path}: this config cannot be used:{''.join(lines)}") from None


def read(path: Path) -> Any:
    """Returns what a YAML file holds, unchecked.

    Raises:
        ConfigError: The file is not there or is not YAML, or a key in it stands twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        problem = "there is no such file"
    except IsADirectoryError:
        problem = "is a folder; a YAML file is needed"
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read: {error}"
    except yaml.YAMLError as error:
        problem = f"is not valid YAML: {' '.join(str(error).split())}"
    raise ConfigError(f"{path}: {problem}")


def _explain(problem: dict, form: type) -> str:
    """One line for a person: the key, its value, and what is allowed."""
    where = problem["loc"]
    key, kind = ".".join(map(str, where)), problem["type"]
    if kind == "extra_forbidden":
        allowed = _keys(where[:-1], form)
        return f"unknown key '{key}'; allowed here: {allowed}{_belongs(where, form)}"
    if kind == "missing":
        return f"the key '{key}' is missing"
    message = problem["msg"].replace("Value error, ", "")
    if kind in ("model_type", "model_attributes_type"):
        message = f"must be a mapping with the keys {_keys(where, form)}"
    if not key:
        return message
    value = repr(problem["input"])
    value = value if len(value) <= 80 else value[:77] + "..."
    return f"{key} = {value}: {message[0].lower()}{message[1:]}"


def _belongs(where: tuple, form: type) -> str:
    """Where a key that is unknown in its place is known, as the end of an error message."""
    *above, key = where
    there = dict.fromkeys(
        f"under '{'.'.join(path)}'" if path else "at the top level"
        for path, pattern, section in _sections(form)
        if key in section.model_fields and not _matches(pattern, above)
    )
    if not there:
        return ""
    home = f"'{above[-1]}'" if above else "the top level"
    return f". '{key}' is not a key of {home}; it belongs {' or '.join(there)}"


def _keys(where: Sequence, form: type) -> str:
    at = (section for _, pattern, section in _sections(form) if _matches(pattern, where))
    return ", ".join(next(at, form).model_fields)


def _sections(
    annotation: Any, path: tuple = (), pattern: str = "", discriminator: Optional[str] = None
) -> Iterator[tuple[tuple, str, type]]:
    """All sections in the type of a key, each with the keys that lead to it.

    They come as words, with "*" for any name of a mapping or place in a list, and as a pattern.
    """
    if isinstance(annotation, type) and issubclass(annotation, Section):
        if discriminator is not None:  # pydantic leaves the tag out if it found none
            tags = typing.get_args(annotation.model_fields[discriminator].annotation)
            pattern += f"(\n({'|'.join(map(re.escape, tags))}))?"
        yield path, pattern, annotation
        for name, field in annotation.model_fields.items():
            steps = (*path, name), f"{pattern}\n{name}"
            yield from _sections(field.annotation, *steps, field.discriminator)
        return
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, list):
        path, pattern, parts = (*path, "*"), f"{pattern}\n[^\n]*", parts[-1:]
    elif origin is Annotated:
        discriminator, parts = getattr(parts[1], "discriminator", None), parts[:1]
    for part in parts:
        yield from _sections(part, path, pattern, discriminator)


def _matches(pattern: str, where: Sequence) -> bool:
    return re.fullmatch(pattern, "".join(f"\n{step}" for step in where)) is not None
