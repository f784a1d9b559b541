"""The kernel that a wheel carries, and its bits on other CPUs."""

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from backends.kernel.launching import DTYPES, Formula, copies, launch, make, mixture

from ms_adam.backends import toolchain
from ms_adam.backends.fused import FUNCTION, SOURCE
from tests.test_wheel import environment_of, wheel_of

CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
REPLAY = Path(__file__).parent / "backends" / "kernel" / "replay.cc"
FORMULAS = {
    "Adam": Formula(),
    "epsilon-hat": Formula(epsilon_hat=True, loss_scale=128.0),
    "AMSGrad, Nesterov": Formula(amsgrad=True, nesterov=True),
    "clipped": Formula(max_grad_norm=1.0, maximize=True),
    "AdamW": Formula(decoupled=True, bias_correction=False),
    "lazy": Formula(lazy=True),
    "AdaMax": Formula(infinity_norm=True, eps=0.0),
}
NO_COMPILER = "import os; os.environ.update(PATH='', CXX='')"
# Three steps in another process. Prints the backend, the library and the bits of the result.
STEPS = """
import numpy as np
import mindspore as ms
from mindspore import Parameter, Tensor
import ms_adam
from ms_adam.backends import fused

weight = Parameter(Tensor(np.linspace(-1, 1, 1000, dtype=np.float32)), name="weight")
optimizer = ms_adam.Adam([weight])
for step in range(3):
    optimizer((Tensor(np.cos(np.arange(1000, dtype=np.float32) + step)),))
print(optimizer.backend, fused.kernel_library()[0])
print(weight.asnumpy().tobytes().hex())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MS_ADAM_PREBUILT", "1")
        return wheel_of(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The Python of an environment with the wheel."""
    return environment_of(wheel, tmp_path_factory.mktemp("environment"))[0]


@pytest.fixture(scope="module")
def variants(wheel, tmp_path_factory):
    """{variant: its function} of those in the wheel that this CPU can run."""
    folder = tmp_path_factory.mktemp("variants")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder)
    flags = toolchain._cpu().get("flags", "").split()
    found = {}
    for variant, _, needed in toolchain.VARIANTS[platform.machine()]:
        (path,) = folder.rglob(f"*-{variant}.so")
        if set(needed.split()) <= set(flags):
            found[variant] = getattr(ctypes.CDLL(str(path)), FUNCTION)
    return found


def run_steps(python, tmp_path, before=""):
    script = tmp_path / "steps.py"
    script.write_text(before + STEPS)
    done = subprocess.run(
        [python, "-I", script], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-2:]


def test_fused_runs_without_a_compiler(installed, tmp_path):
    """The library of the wheel has the bits of the one that a compiler builds."""
    carried, bits = run_steps(installed, tmp_path, NO_COMPILER)
    assert carried.startswith("fused ") and "prebuilt" in carried
    built, expected = run_steps(installed, tmp_path)
    assert built.startswith("fused ") and "prebuilt" not in built
    assert bits == expected
    for library in Path(carried.split(" ", 1)[1]).parent.iterdir():
        library.unlink()
    neither, _ = run_steps(installed, tmp_path, NO_COMPILER)
    assert neither == "primitive None"


def test_the_wheel_is_of_this_machine(wheel):
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    assert platform.machine() in wheel.name


def test_a_changed_source_takes_no_library(tmp_path, monkeypatch):
    """The name has the hash of the source."""
    shutil.copytree(SOURCE, tmp_path / "kernel")
    files = toolchain._read(SOURCE)
    for variant, *_ in toolchain.VARIANTS[platform.machine()]:
        path = toolchain._prebuilt(tmp_path / "prebuilt", SOURCE, files, variant)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "prebuilt" in str(toolchain.build(tmp_path / "kernel"))
    with open(tmp_path / "kernel" / "step.h", "a") as file:
        file.write("// changed\n")
    with pytest.raises(toolchain.BuildError, match="no C"):
        toolchain.build(tmp_path / "kernel")


# ---- Bits ---------------------------------------------------------------------------------------


def weights_after_steps(kernel, formula):
    """Returns the bytes of weights of all dtypes and their moments after three steps."""
    rng = np.random.default_rng(0)
    large = [make(rng, (8191,), dtype, decayed=True) for dtype in DTYPES]
    weights = mixture(rng) + large
    for weight in weights:
        if weight.gradient.ndim > 1:
            weight.gradient[0] = 0  # a row that a lazy step skips
    for step in (1, 2, 300):
        given = copies(weights)
        assert launch(kernel, formula, given, step, (1e-2, 1e-3), (0.1, 0.0), threads=2) == 0
        weights = given
    return [x.tobytes() for weight in weights for x in weight if isinstance(x, np.ndarray)]


@pytest.fixture(scope="module")
def expected(variants):
    return {
        name: weights_after_steps(variants["baseline"], formula)
        for name, formula in FORMULAS.items()
    }


@pytest.mark.parametrize("name", FORMULAS)
def test_variants_have_the_same_bits(variants, expected, name):
    """With the vectors that this CPU has, of those that a wheel carries."""
    for variant, kernel in variants.items():
        assert weights_after_steps(kernel, FORMULAS[name]) == expected[name], variant


def test_bits_tell_formulas_apart(expected):
    """Were they all equal, the tests above would prove nothing."""
    assert len({b"".join(found) for found in expected.values()}) == len(FORMULAS)


class Replay:
    """Launches the kernel in another program, as if it were a function of this process."""

    def __init__(self, command):
        self.command = command

    def __call__(self, count, data, axes, shapes, dtypes, *_):
        sizes, sent = [], [struct.pack("q", count)]
        for i in range(count):
            shape = (ctypes.c_int64 * max(1, axes[i])).from_address(shapes[i])[: axes[i]]
            width = {"int64": 8, "float64": 8, "float16": 2, "bfloat16": 2}.get(
                dtypes[i].decode(), 4
            )
            sizes.append(int(np.prod(shape, dtype=np.int64)) * width)
            sent.append(struct.pack("q", len(dtypes[i])) + dtypes[i])
            sent.append(struct.pack(f"{1 + len(shape)}q", len(shape), *shape))
            sent.append(struct.pack("q", sizes[i]) + ctypes.string_at(data[i], sizes[i]))
        done = subprocess.run(self.command, input=b"".join(sent), capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr
        (answer,), at = struct.unpack_from("q", done.stdout), 8
        for i, size in enumerate(sizes):
            ctypes.memmove(data[i], done.stdout[at : at + size], size)
            at += size
        assert at == len(done.stdout)
        return answer


@pytest.fixture(scope="module")
def on_aarch64(tmp_path_factory):
    missing = [name for name in (CROSS, EMULATOR) if shutil.which(name) is None]
    if missing:
        assert not os.environ.get("MS_ADAM_AARCH64"), f"not found: {', '.join(missing)}"
        pytest.skip(f"needs {' and '.join(missing)} (packages g++-aarch64-linux-gnu, qemu-user)")
    program = tmp_path_factory.mktemp("aarch64") / "replay"
    flags = [flag for flag in toolchain.FLAGS if flag not in ("-shared", "-Wl,-z,nodelete")]
    source = str(SOURCE / "entry_points.cc")
    subprocess.run([CROSS, *flags, "-static", source, REPLAY, "-o", program], check=True)
    return Replay([EMULATOR, program])


@pytest.mark.parametrize("name", FORMULAS)
def test_aarch64_has_the_same_bits(on_aarch64, expected, name):
    """Cross-compiled, and run in an emulator; on x86-64 the bits are those of SSE2."""
    assert weights_after_steps(on_aarch64, FORMULAS[name]) == expected[name]
