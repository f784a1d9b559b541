"""`ms-adam train-distributed`: help, messages, exit statuses."""

import json
from pathlib import Path

import pytest

from ms_adam.lab.errors import Interrupted
from ms_adam.lab.studies.ranks import runner
from ms_adam.lab.studies.ranks.launch import RankError

CONFIG = Path(__file__).parents[3] / "configs" / "distributed.yaml"


def content(*statuses):
    verdicts = [
        {"claim": f"claim {i} [x]", "status": status, "measured": "m", "limit": "l", "why": ""}
        for i, status in enumerate(statuses)
    ]
    return {"schema": 1, "environment": {}, "results": [{"name": "few", "verdicts": verdicts}]}


@pytest.fixture
def train(monkeypatch):
    """Lets the runner return or raise at once; the arguments that it was given."""
    given = []

    def ends(with_what):
        def stand_in(run, out, resume, progress):
            given.append((run.name, out, resume))
            progress(run.name, "graph, 2 workers", 1, 1)
            if isinstance(with_what, BaseException):
                raise with_what
            return with_what

        monkeypatch.setattr(runner, "train", stand_in)
        return given

    return ends


def test_help(invoke):
    assert "train-distributed" in invoke("--help").output
    text = " ".join(invoke("train-distributed", "--help").output.split())
    for part in (
        "CONFIG",
        "--out",
        "--resume",
        "--json",
        "--debug",
        "Example:",
        "Exit status:",
        "msrun",
        "configs/distributed.yaml",
    ):
        assert part in text


@pytest.mark.parametrize(
    "statuses, exit_code",
    [(("held", "held"), 0), (("held", "not held"), 1), (("not measured",), 1)],
)
def test_table_and_exit_status(invoke, train, tmp_path, statuses, exit_code):
    train(content(*statuses))
    result = invoke("train-distributed", CONFIG, "--out", tmp_path)
    assert result.exit_code == exit_code, result.output
    words = " ".join(result.output.split())
    for i, status in enumerate(statuses):
        assert f"claim {i} [x]" in words and status in words  # brackets are text, not colour
    assert f"{statuses.count('held')} of {len(statuses)} claims held" in words


def test_resume_and_json(invoke, train, tmp_path):
    given = train(content("held"))
    copy = tmp_path / "copy.json"
    assert (
        invoke(
            "train-distributed", CONFIG, "--out", tmp_path / "out", "--resume", "--json", copy
        ).exit_code
        == 0
    )
    assert given == [("distributed", tmp_path / "out", True)]
    assert json.loads(copy.read_text()) == content("held")


@pytest.mark.parametrize(
    "error, exit_code",
    [(RankError("rank 1 of 2 was killed or crashed"), 2), (Interrupted("stopped in there"), 130)],
)
def test_what_ends_it_is_told(invoke, train, tmp_path, error, exit_code):
    train(error)
    result = invoke("train-distributed", CONFIG, "--out", tmp_path)
    assert result.exit_code == exit_code
    assert f"ms-adam: {error}" in result.output and "Traceback" not in result.output


def test_debug_shows_where(invoke, train, tmp_path):
    train(RankError("rank 1"))
    assert "Traceback" in invoke("train-distributed", CONFIG, "--out", tmp_path, "--debug").output


def test_wrong_config_is_one_message(invoke, tmp_path):
    config = tmp_path / "wrong.yaml"
    config.write_text(CONFIG.read_text().replace("batch_size: 128", "batch_size: 126"))
    result = invoke("train-distributed", config, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "batch_size = 126 can not be divided among 4 workers" in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_missing_config(invoke, tmp_path):
    result = invoke("train-distributed", tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "none.yaml" in result.output
