"""Keys that a shipped config shows in a comment are keys that it takes."""

import re
from pathlib import Path

import pytest
import yaml

from ms_adam.lab.run.config import load
from ms_adam.lab.studies.compare.config import Comparison

CONFIGS = Path(__file__).parents[3] / "configs"
# Other comments that begin like a key explain one that the same file has, or null.
COMMENTED = re.compile(r"^( *)# ((\w+): .*)$", re.MULTILINE)
# The only file that has any.
SHOWN = {"compare.yaml": ["factory", "factory_options", "dtype", "msprobe"]}


def keys_of(node):
    if isinstance(node, dict):
        return set(node).union(*map(keys_of, node.values()))
    return set().union(*map(keys_of, node)) if isinstance(node, list) else set()


def commented(text):
    there = keys_of(yaml.safe_load(text))
    return [match for match in COMMENTED.finditer(text) if match[3] not in {*there, "null"}]


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_commented_key_is_tried_below(path):
    found = [match[3] for match in commented(path.read_text())]
    assert found == SHOWN.get(path.name, [])


def test_commented_keys_are_accepted(tmp_path):
    ((name, keys),) = SHOWN.items()
    text = (CONFIGS / name).read_text()
    for match in commented(text):
        text = text.replace(match[0], f"{match[1]}{match[2]}", 1)
    content = yaml.safe_load(text)
    assert set(keys) <= keys_of(content)
    del content["problem"]  # in whose place `factory` stands
    path = tmp_path / name
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert set(keys) <= keys_of(load(path, Comparison).model_dump(exclude_unset=True))


def test_a_key_in_the_wrong_section_would_be_found():
    wrong = "problem:\n  # factory: my_module:make  (or a file)\n  hidden: [3]\n"
    assert [match[3] for match in commented(wrong)] == ["factory"]
