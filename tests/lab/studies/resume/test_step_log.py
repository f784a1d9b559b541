"""The lines of a training: what a stopped process leaves is cut to what is whole."""

import numpy as np
import pytest

from ms_adam.lab.studies.resume.step_log import StepLog

COLUMNS = ("step", "epoch", "loss")
HEADER = b"step,epoch,loss\n"
WHOLE = HEADER + b"1,1,2.5\n2,1,2.25\n3,2,0.1\n"


@pytest.mark.parametrize(
    "content, step, last, kept",
    [
        (None, 0, 0, HEADER),  # a new file
        (WHOLE, 3, 3, WHOLE),
        (WHOLE, 2, 2, WHOLE[:-8]),  # later steps go
        (WHOLE, 0, 0, HEADER),
        (WHOLE[:-1], 3, 2, WHOLE[:-8]),  # 3,2,0.1 may be the beginning of 0.125
        (WHOLE[:-3], 3, 2, WHOLE[:-8]),
        (WHOLE[:10], 3, 0, HEADER),  # a cut or foreign header
        (b"", 3, 0, HEADER),
        (WHOLE.replace(b"2,1,", b"2;1,"), 3, 1, WHOLE[:24]),
        (WHOLE.replace(b"2,1,", b"\xff,1,"), 3, 1, WHOLE[:24]),
        (WHOLE + b"2,1,7\n", 9, 3, WHOLE),  # steps only rise
    ],
    ids=str,
)
def test_what_is_kept(tmp_path, content, step, last, kept):
    path = tmp_path / "a.csv"
    if content is not None:
        path.write_bytes(content)
    with StepLog(path, COLUMNS, step) as log:
        assert log.last_step == last
        log.write(step + 1, 9, np.float32(0.1))
    assert path.read_bytes() == kept + f"{step + 1},9,0.1\n".encode()


def test_float32_is_read_back_exactly(tmp_path):
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    path = tmp_path / "a.csv"
    with StepLog(path, COLUMNS, 0) as log:
        for step, value in enumerate(values, start=1):
            log.write(step, 1, value)
        log.sync()
    read = np.loadtxt(path, delimiter=",", skiprows=1)[:, 2].astype(np.float32)
    np.testing.assert_array_equal(read, values)
