"""Configs with another value in one place, as files, for tests."""

import copy

import yaml


def write(folder, content):
    path = folder / "experiment.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
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
