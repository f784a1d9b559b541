"""ms-adam identify: what a new user sees, exit statuses, files."""

import json

import pytest

from ms_adam.lab.studies.identify import catalogue


@pytest.fixture
def invoke(invoke, monkeypatch):
    monkeypatch.syspath_prepend("")  # what the command adds to sys.path is gone after the test
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: invoke("identify", *arguments)


def test_found(invoke, tmp_path):
    file = tmp_path / "found.json"
    result = invoke("ms_adam.reference.Adam", "--set", "epsilon=hat", "--json", file)
    assert result.exit_code == 0
    for part in (
        "ms_adam.reference.Adam(epsilon='hat')",
        "epsilon-hat",
        "next best",
        "taken to have learning_rate=0.001",
        "weight decay",
        "L2, added to the gradient",
    ):
        assert part in result.output
    content = json.loads(file.read_text())
    assert content["schema"] == 1 and "numpy" in content["environment"]
    (found,) = content["results"]
    assert found["formula"] == "epsilon-hat" and found["algorithm1"] is False
    assert found["residual"] < 1e-12 < found["next_residual"]
    assert {finding["question"] for finding in found["findings"]} >= {"epsilon", "decay"}


def test_json_is_strict_where_a_residual_is_infinite(invoke, tmp_path):
    """What gives NaN has an infinite residual, which JSON has no number for."""
    file = tmp_path / "found.json"
    result = invoke("lab.studies.identify.mutants:Unfinite", "--json", file)
    assert result.exit_code == 1
    assert "no known formula" in result.output

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    (found,) = json.loads(file.read_text(), parse_constant=refuse)["results"]
    assert found["residual"] is None


@pytest.mark.parametrize(
    "settings, exit_code, words",
    [
        (["beta1=0.0"], 1, "ambiguous: "),
        (["eps=1e-3"], 0, "eps=0.001"),  # YAML takes 1e-3 for a word
    ],
)
def test_exit_status(invoke, settings, exit_code, words):
    result = invoke("ms_adam.reference.Adam", *(f"--set={setting}" for setting in settings))
    assert result.exit_code == exit_code
    assert words in result.output


def test_what_does_not_run_is_not_available(invoke):
    result = invoke("mindspore.mint.optim.AdamW")
    assert result.exit_code == 3
    assert "does not run here" in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "give one optimizer"),
        (["ms_adam.reference.Adam", "--all"], "give one optimizer"),
        (["--all", "--set", "a=1"], "--set is for one optimizer"),
        (["ms_adam.reference.Adam", "--set", "beta1"], "--set takes NAME=VALUE"),
        (["ms_adam.reference.Adam", "--set", "beta1=[1"], "the value is no YAML"),
        (["ms_adam.reference.Adam", "--set", "beta=1"], "did you mean beta2 or beta1"),
    ],
)
def test_errors_are_one_message(invoke, arguments, words):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.output and "Traceback" not in result.output


def test_debug_shows_the_trace(invoke):
    assert "Traceback" in invoke("ms_adam.reference.Adan", "--debug").output


def test_markdown_row(invoke):
    result = invoke("ms_adam.reference.Adam", "--set", "decoupled=true", "--markdown")
    lines = result.output.splitlines()
    assert lines[0].startswith("| optimizer | formula | weight decay |")
    assert lines[2].startswith("| ms_adam.reference.Adam(decoupled=True) | Algorithm 1 | decoupled")


def test_all_shows_each_and_what_this_mindspore_lacks(invoke, monkeypatch):
    monkeypatch.setattr(
        catalogue, "ADAMS", (("ms_adam.reference.Adam", {}), ("mindspore.nn.NeverWas", {}))
    )
    result = invoke("--all", "--markdown")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == 4
    assert "| Algorithm 1 |" in lines[2]
    assert "mindspore.nn has no 'NeverWas'" in lines[3]
    assert "Algorithm 1" in invoke("--all").output


def test_factory_in_the_current_folder(invoke, tmp_path, monkeypatch):
    (tmp_path / "here_optimizers.py").write_text(
        "from ms_adam import reference\ndef make(rate=0.01):\n    return reference.SGD(rate)\n"
    )
    monkeypatch.chdir(tmp_path)
    result = invoke("here_optimizers:make", "--markdown")
    assert result.exit_code == 0
    assert "| here_optimizers:make | SGD |" in result.output
