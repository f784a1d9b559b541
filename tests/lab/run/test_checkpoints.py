"""Checkpoint files: renamed when whole, damage found, the last good one taken."""

import os

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from ms_adam.lab.run import checkpoints
from ms_adam.lab.run.checkpoints import CheckpointError, CheckpointFiles

DESCRIPTION = {"config": {"a": 1}, "mode": "graph"}


def parameters(step):
    return {name: Parameter(Tensor(np.full(5, step, np.float32)), name) for name in ("w", "b")}


@pytest.fixture
def files(tmp_path):
    files = CheckpointFiles(tmp_path / "checkpoints", keep=3)
    for step in (5, 10, 15, 20):
        files.save(step, parameters(step), DESCRIPTION)
    return files


def names(files):
    return sorted(path.name for path in files.folder.iterdir())


def damage(path, change):
    os.chmod(path, 0o600)  # MindSpore makes its files read-only
    path.write_bytes(change(bytearray(path.read_bytes())))


def flip(place):
    def change(content):
        content[place] ^= 1
        return content

    return change


def test_the_newest_are_kept(files):
    assert names(files) == [f"step-000000{step}.ckpt" for step in (10, 15, 20)]
    checkpoint, messages = files.newest_good()
    assert (checkpoint.step, checkpoint.description, messages) == (20, DESCRIPTION, [])
    assert set(checkpoint.parameters) == {"w", "b"}
    np.testing.assert_array_equal(checkpoint.parameters["w"].asnumpy(), np.full(5, 20))


def test_a_file_is_an_ordinary_checkpoint(files):
    loaded = ms.load_checkpoint(str(files.paths()[0]))
    np.testing.assert_array_equal(loaded["b"].asnumpy(), np.full(5, 20))


def test_no_files_is_no_error(tmp_path):
    assert CheckpointFiles(tmp_path / "none", 2).newest_good() == (None, [])


DAMAGES = {
    "first": flip(0),
    "middle": flip(40),
    "crc": flip(-1),
    "crc, high": flip(-12),
    "mark": flip(-17),
    "cut by one": lambda content: content[:-1],
    "cut": lambda content: content[:60],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"x",
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("change", DAMAGES)
def test_damage_is_found_and_the_one_before_is_taken(files, change):
    damage(files.paths()[0], DAMAGES[change])
    checkpoint, (message,) = files.newest_good()
    assert checkpoint.step == 15
    assert message.startswith(str(files.folder / "step-00000020.ckpt")) and "damaged" in message
    # It does not count as one of those that are kept, and the next of its step takes its name.
    assert [path.name for path in files.paths()] == ["step-00000015.ckpt", "step-00000010.ckpt"]
    files.save(20, parameters(20), DESCRIPTION)
    assert files.newest_good()[0].step == 20
    assert len(names(files)) == 4


def test_all_damaged_is_an_error_with_each_name(files):
    for path in files.paths():
        damage(path, flip(30))
    with pytest.raises(CheckpointError) as error:
        files.newest_good()
    for step in (10, 15, 20):
        assert f"step-000000{step}.ckpt: is damaged" in str(error.value)


@pytest.mark.parametrize("moment", ["writing", "before the rename"])
def test_stopped_while_saving(files, monkeypatch, moment):
    """What is there is what was there before; what is half written does no harm later."""
    before = files.paths()

    save = ms.save_checkpoint

    def stop(*_):
        raise KeyboardInterrupt

    def half(entries, path, **options):
        save(entries, path, **options)
        damage(checkpoints.Path(path), DAMAGES["cut"])
        stop()

    if moment == "writing":
        monkeypatch.setattr(checkpoints.mindspore, "save_checkpoint", half)
    else:
        monkeypatch.setattr(checkpoints.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        files.save(25, parameters(25), DESCRIPTION)
    assert files.paths() == before and files.newest_good()[0].step == 20
    assert len(names(files)) == 4  # the half-written one lies there
    monkeypatch.undo()
    files.save(25, parameters(25), DESCRIPTION)
    assert names(files) == [f"step-000000{step}.ckpt" for step in (15, 20, 25)]


def test_a_checkpoint_of_something_else_is_named(files):
    ms.save_checkpoint(
        [{"name": "w", "data": Tensor([1.0])}],
        str(files.folder / "step-00000030.ckpt"),
        crc_check=True,
    )
    checkpoint, (message,) = files.newest_good()
    assert checkpoint.step == 20 and "is no checkpoint of ms-adam reproduce" in message
