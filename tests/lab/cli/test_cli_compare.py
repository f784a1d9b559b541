"""The command ``ms-adam compare``: errors in words, exit status."""

from pathlib import Path

import pytest

from ms_adam.lab.report.studies import compare as page
from ms_adam.lab.studies.compare import run

CONFIG = Path(__file__).parents[3] / "configs" / "compare.yaml"


@pytest.fixture
def finished(monkeypatch):
    """Lets the runs end at once, with the pairs that a test wants."""

    def with_pairs(*pairs):
        entries = [
            {"status": status, "must_hold": must_hold, "sentence": f"they {status} [x]"}
            for status, must_hold in pairs
        ]
        content = {"schema": 1, "results": [{"pairs": entries}]}
        monkeypatch.setattr(run, "compare", lambda *_: content)
        monkeypatch.setattr(page, "write_page", lambda out: out / "index.html")

    return with_pairs


@pytest.mark.parametrize(
    "pairs, exit_code",
    [
        ([("equal", True), ("held", True)], 0),
        ([("equal", True), ("parted", True)], 1),
        ([("parted", False), ("held", True)], 0),
    ],
)
def test_exit_status_and_sentences(invoke, finished, tmp_path, pairs, exit_code):
    finished(*pairs)
    copy = tmp_path / "copy.json"
    result = invoke("compare", CONFIG, "--out", tmp_path, "--json", copy)
    assert result.exit_code == exit_code
    for status, _ in pairs:
        assert f"they {status} [x]" in result.output  # brackets are text, not colour
    assert copy.exists()


def test_unknown_key_is_one_message(invoke, tmp_path):
    config = tmp_path / "wrong.yaml"
    config.write_text(CONFIG.read_text().replace("must_hold:", "may_part:"))
    result = invoke("compare", config, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "unknown key 'pairs.1.may_part'; allowed here: sides, tolerance" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
