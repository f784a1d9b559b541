"""Results: files whole or not there, and without NaN."""

import json

import pytest

from ms_adam.lab.run.results import plain, results, write_json


def test_json_without_nan(tmp_path):
    content = plain({"a": [float("nan"), 1.5], "b": (float("-inf"), None)})
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": ["nan", 1.5], "b": ["-inf", None]}


def test_an_old_file_stays_if_the_new_one_cannot_be_written(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_outermost_keys():
    content = results([{"loss": float("inf")}], ["GPU", "CPU", None, "CPU"])
    assert list(content) == ["schema", "environment", "results"]
    assert content["environment"]["device_target"] == "CPU, GPU"
    assert content["results"] == [{"loss": "inf"}]
    assert results([])["environment"]["device_target"] is None
