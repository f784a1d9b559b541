"""The wheel installs into an empty environment, and its optimizer takes a step there."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import ms_adam

ROOT = Path(__file__).parent.parent
# A step whose size is the learning rate.
STEP = """
import importlib.metadata, pathlib
import mindspore as ms
from mindspore import nn, ops
import ms_adam

network = nn.Dense(8, 3)
optimizer = ms_adam.Adam(network.trainable_params(), learning_rate=0.5)
gradients = tuple(ops.ones_like(parameter) for parameter in optimizer.parameters)
before = network.bias.asnumpy().copy()
optimizer(gradients)
print((before - network.bias.asnumpy()).round(4).tolist())
print(pathlib.Path(ms_adam.__file__).parent)
print(importlib.metadata.version("ms_adam"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return wheel_of(tmp_path_factory.mktemp("wheel"))


def wheel_of(folder):
    """Builds the wheel from a copy, since the build writes into the tree."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ms_adam", folder / "project" / "ms_adam", ignore=ignored)
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "project")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, folder / "project")
    (path,) = folder.glob("*.whl")
    return path


def pip(command, *arguments, python=sys.executable):
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "--quiet", command, "--no-deps"]
        + [str(argument) for argument in arguments],
        check=True,
    )


def environment_of(wheel, folder):
    """Installs the wheel into a new environment; returns its Python and its packages' folder.

    MindSpore is read from this environment, to save 1 GB; the package is not.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip("install", "--no-index", wheel, python=python)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "mindspore.pth").write_text(sysconfig.get_path("purelib"))
    return python, site


def test_the_wheel_holds_every_source_file(wheel):
    with zipfile.ZipFile(wheel) as files:
        for path in (ROOT / "ms_adam").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert files.read(path.relative_to(ROOT).as_posix()) == path.read_bytes()


def test_the_version_stands_once(wheel):
    assert wheel.name.startswith(f"ms_adam-{ms_adam.__version__}-")
    assert ms_adam.__version__ not in (ROOT / "setup.cfg").read_text().split("[options]")[0]


def test_a_step_in_an_empty_environment(wheel, tmp_path):
    python, site = environment_of(wheel, tmp_path / "environment")
    script = tmp_path / "step.py"
    script.write_text(STEP)
    done = subprocess.run(
        [python, "-I", script], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    change, place, release = done.stdout.splitlines()[-3:]
    assert change == "[0.5, 0.5, 0.5]"
    assert Path(place) == site / "ms_adam"
    assert release == ms_adam.__version__
