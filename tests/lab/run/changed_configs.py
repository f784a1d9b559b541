"""Configs with another value in one place, as files, and how they are refused, for tests."""

import copy

import pytest
import yaml

from ms_adam.lab.run.config import ConfigError


def write(folder, content):
    path = folder / "experiment.yaml"
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    )
    return path


def changed(content, key, value):
    """A copy with `value` at `key`, such as "training.epochs"."""
    content = copy.deepcopy(content)
    *sections, last = key.split(".")
    place = content
    for section in sections:
        place = place[section]
    place[last] = value
    return content


def refusal(folder, content, load):
    """The message with which `load` refuses a file of this content; it names the file."""
    path = write(folder, content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)
