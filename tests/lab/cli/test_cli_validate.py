"""`ms-adam validate` at the surface: arguments, exit status, what is printed."""

import json

import pytest

from ms_adam.lab.report.studies.support import support_table
from ms_adam.lab.studies.matrix import validate


def result(status, against="reference", **fields):
    return {
        "case": "default",
        "dtype": "float32",
        "mode": "graph",
        "backend": "fused",
        "against": against,
        "status": status,
        "share": 0.5,
        "note": "a [b] note",
        **fields,
    }


@pytest.fixture
def invoke(invoke, monkeypatch, tmp_path):
    """Runs the command; `results` are what the matrix gives."""

    def run(*arguments, results=(), stopped=False):
        def judge(cells, device_target, out, workers, tell, save):
            def content(complete):
                return {
                    "schema": 1,
                    "environment": {"device_target": device_target},
                    "complete": complete,
                    "results": list(results),
                }

            tell(cells[0], list(results))
            save(content(False))
            if stopped:
                raise KeyboardInterrupt
            save(content(True))
            return content(True)

        monkeypatch.setattr(validate, "validate", judge)
        return invoke("validate", "--out", tmp_path / "out", *arguments)

    return run


@pytest.mark.parametrize(
    "statuses, exit_code",
    [
        (["held"], 0),
        (["held", "nn.Adam cannot run this", "not offered"], 0),
        (["held", "nn.Adam computes something else"], 0),
        (["held", "fell short"], 1),
        (["not available on this device"], 3),
        (["not offered"], 3),
    ],
)
def test_exit_status_and_summary(invoke, tmp_path, statuses, exit_code):
    done = invoke(results=[result(status) for status in statuses])
    assert done.exit_code == exit_code, done.output
    for status in statuses:
        assert f"1 {status}" in done.output
    saved = json.loads((tmp_path / "out/validate.json").read_text())
    assert [entry["status"] for entry in saved["results"]] == statuses


def test_reasons_are_printed(invoke):
    done = invoke(
        results=[
            result("fell short", share=12.5),
            result("fell short", share=None),
            result("not offered"),
            result("nn.Adam computes something else", "nn.Adam", share=70.0),
        ]
    )
    for text in (
        "fell short: default, float32, graph, fused, against reference: "
        "12.5 times its bound; a [b] note\n",
        "against reference: a [b] note\n",
        "not offered (1): a [b] note",
        "default, float32: 70 times the bound on its own roundings",
    ):
        assert text in done.output


def test_json_goes_where_it_is_wanted(invoke, tmp_path):
    invoke("--json", tmp_path / "x.json", results=[result("held")])
    assert json.loads((tmp_path / "x.json").read_text())["schema"] == 1
    assert not (tmp_path / "out/validate.json").exists()


def test_a_run_that_is_stopped_keeps_its_results(invoke, tmp_path):
    path = tmp_path / "new" / "x.json"
    done = invoke("--json", path, results=[result("held")], stopped=True)
    assert done.exit_code == 130 and "stopped; results so far" in done.output
    saved = json.loads(path.read_text())
    assert saved["complete"] is False and len(saved["results"]) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--only", "amsgrad float8"], "all words of 'amsgrad float8' in its name; words are"),
        (["--device-target", "TPU"], "TPU"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_bad_arguments(invoke, arguments, message):
    done = invoke(*arguments)
    assert done.exit_code == 2 and message in done.output
    assert "Traceback" not in done.output


def test_markdown(invoke):
    results = [
        result("held", dtype=dtype, mode=mode)
        for dtype in ("float16", "bfloat16", "float32", "float64")
        for mode in ("graph", "pynative")
    ]
    results += [
        result("held", backend="primitive"),
        result("not offered", backend="primitive", dtype="float16"),
        result("held", "nn.Adam"),
        result("nn.Adam cannot run this", "nn.Adam", dtype="float64"),
        result("nn.Adam computes something else", "nn.Adam", dtype="float16"),
        result("held", case="other"),
        result("fell short", case="other", mode="pynative"),
        result("not available on this device", case="other", backend="primitive"),
        result("held", case="mixed"),
        result("held", case="mixed", dtype="float64"),
        result("not available on this device", case="mixed", dtype="bfloat16"),
    ]
    table = support_table(results)
    assert table.splitlines() == [
        "|  | fused | primitive | nn.Adam |",
        "| --- | --- | --- | --- |",
        "| default | all | f32 | differs: f16; f32 |",
        "| other | **fell short**: f32 | not available here | - |",
        "| mixed | f32 f64; not available here: bf16 | - | - |",
    ]
    done = invoke("--markdown", results=results[:-6])
    assert table.splitlines()[2] in done.output
