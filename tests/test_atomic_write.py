"""Files appear whole or not at all."""

import pytest

from ms_adam.atomic_write import atomic_write


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_are_moved_at_the_end(tmp_path):
    (tmp_path / "kept").write_text("old")
    with atomic_write(tmp_path) as writing:
        (writing / "new").write_text("new")
        assert not (tmp_path / "new").exists()
    assert contents(tmp_path) == {"kept": "old", "new": "new"}
    with pytest.raises(ValueError), atomic_write(tmp_path) as writing:
        (writing / "kept").write_text("half")
        raise ValueError
    assert contents(tmp_path) == {"kept": "old", "new": "new"}
