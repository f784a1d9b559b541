"""A YAML file as a checked pydantic model; what is wrong with it in one line for a person each."""

from __future__ import annotations

import math
import typing
from pathlib import Path
from typing import Any

import pydantic
import yaml

from ms_adam.experiments.config import ConfigError


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice (YAML lets the last one win)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict:
    """The content of a YAML file that holds a mapping.

    Raises:
        ConfigError: The file is not there, can not be read, or holds something else; the message
            names the file.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; a YAML file is needed") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can not be read: {error}") from None
    except yaml.YAMLError as error:
        one_line = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not valid YAML: {one_line}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    return content


def checked(path: Path, content: dict, section: type[pydantic.BaseModel]):
    """The content as a `section`.

    Raises:
        ConfigError: A key is unknown, missing, or has a value that is not allowed; the message has
            a line for each, with the key, its value, and what is allowed.
    """
    try:
        return section.model_validate(content)
    except pydantic.ValidationError as error:
        lines = [f"  {_explain(section, problem)}" for problem in error.errors()]
        raise ConfigError("\n".join([f"{path}: this config can not be used:", *lines])) from None


def _explain(section: type[pydantic.BaseModel], problem: dict) -> str:
    where = problem["loc"]
    key = ".".join(str(part) for part in where)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'; allowed here: {_keys(_model_at(section, where[:-1]))}"
    if problem["type"] == "missing":
        return f"the key '{key}' is missing"
    message = problem["msg"].replace("Value error, ", "")
    if problem["type"] in ("model_type", "model_attributes_type"):
        message = f"must be a mapping with the keys {_keys(_model_at(section, where))}"
    if not key:
        return message
    return f"{key} = {_shown(problem['input'])}: {message[0].lower()}{message[1:]}"


def _keys(section: type[pydantic.BaseModel]) -> str:
    return ", ".join(section.model_fields)


def _model_at(section: type[pydantic.BaseModel], where: tuple) -> type[pydantic.BaseModel]:
    """The model to which a place in the content belongs; numbers in it are places in lists."""
    for part in where:
        if isinstance(part, str):
            section = _model_in(section.model_fields[part].annotation)
    return section


def _model_in(annotation: Any) -> Any:
    """The model in list[Model], Optional[Model] or Model."""
    for inner in typing.get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    is_model = isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
    return annotation if is_model else None


def _shown(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
