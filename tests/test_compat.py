"""What ms_adam.compat says of the release of MindSpore that runs is true of it."""

import re
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.ops import operations as P

import ms_adam
from ms_adam import compat


def true_iff(holds, error, action):
    """An action fails with an error if and only if something does not hold."""
    if holds:
        action()
        return
    with pytest.raises(error):
        action()


def test_bfloat16():
    assert compat.HAS_BFLOAT16 == hasattr(ms, "bfloat16") == (len(compat.FLOATS) == 4)
    assert (compat.bfloat16 in compat.FLOATS) == compat.HAS_BFLOAT16
    assert compat.NO_FLOAT not in compat.FLOATS


def test_scattering_of_float64():
    weight = Parameter(Tensor(np.zeros(4), ms.float64), name="w")
    P.ScatterUpdate()(weight, Tensor([1], ms.int32), Tensor([0.1], ms.float64))
    expected = 0.1 if compat.SCATTERS_FLOAT64 else float(np.float32(0.1))
    assert weight.asnumpy()[1] == expected


@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0), (3, 4), ()])
def test_shapes(shape):
    true_iff(compat.has_shape(shape), ValueError, lambda: Tensor(np.zeros(shape), ms.float32))


def test_the_face_of_mint():
    true_iff(hasattr(ms, "mint"), ImportError, lambda: ms_adam.mint)


def test_counting():
    weight = Parameter(Tensor(np.zeros(4), ms.float32), name="w")
    theirs = nn.Adam([weight])
    for _ in range(3):
        theirs((Tensor(np.ones(4), ms.float32),))
    assert int(theirs.global_step) == (3 if compat.COUNTS_ALL_STEPS else 0)
    ours = ms_adam.Adam([weight])
    for _ in range(3):
        ours((Tensor(np.ones(4), ms.float32),))
    assert int(ours.global_step) == 3


def test_checkpoints_with_a_crc(tmp_path):
    content = [{"name": "w", "data": Tensor(np.ones(3), ms.float32)}]
    true_iff(
        not compat.PLAIN_CHECKPOINTS_ONLY,
        TypeError,
        lambda: ms.save_checkpoint(content, str(tmp_path / "w.ckpt"), crc_check=True),
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_amsgrad_of_mindspores_kernel_runs_or_says_why_not(nesterov):
    weight = Parameter(Tensor(np.ones(4), ms.float32), name="w")

    def make():
        return ms_adam.Adam([weight], use_amsgrad=True, use_nesterov=nesterov, backend="primitive")

    if compat.HAS_AMSGRAD_KERNEL and not nesterov:
        assert make().backend == "primitive"
        return
    why = "has no Nesterov" if compat.HAS_AMSGRAD_KERNEL else f"{compat.RELEASE} has one epsilon"
    with pytest.raises(ValueError, match=f"'primitive' cannot run here: .*{why}"):
        make()


def test_only_compat_asks_what_a_release_has():
    package = Path(ms_adam.__file__).parent
    asks = re.compile(r"hasattr\((ms|mindspore|P|ops|Tensor)\b|(ms|mindspore)\.__version__")
    asking = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if asks.search(path.read_text(encoding="utf-8"))
    }
    assert asking == {"compat.py"}
