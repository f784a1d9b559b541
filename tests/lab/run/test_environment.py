"""The environment tells versions and machine, and nothing about who or where."""

import getpass
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from ms_adam.lab.run import environment as module
from ms_adam.lab.run.environment import environment


def test_versions_and_machine_but_no_names_and_no_paths():
    found = environment("CPU")
    assert found["python"] == platform.python_version()
    assert found["mindspore"][0].isdigit() and found["numpy"][0].isdigit()
    assert found["cores"] >= 1
    assert found["device_target"] == "CPU"
    assert found["date"].endswith(" UTC")
    assert set(found) == {
        "ms_adam", "commit", "uncommitted_changes", "mindspore", "numpy", "python", "system",
        "cpu", "cores", "device_target", "date",
    }  # fmt: skip
    private = {platform.node(), getpass.getuser(), str(Path.home())}
    assert not private & set(map(str, found.values()))
    assert str(Path(module.__file__).parent) not in json.dumps(found)


def output(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def git(folder, *arguments):
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    return output("git", *identity, *arguments, cwd=folder)


def environment_of_copy(folder):
    program = "import json, environment; print(json.dumps(environment.environment()))"
    return json.loads(output(sys.executable, "-c", program, cwd=folder))


def test_commit_is_that_of_this_project_alone(tmp_path):
    shutil.copy(module.__file__, tmp_path / "environment.py")
    outside = environment_of_copy(tmp_path)
    assert (outside["commit"], outside["uncommitted_changes"]) == (None, None)

    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("__pycache__\n")
    git(tmp_path, "add", ".gitignore")
    git(tmp_path, "commit", "-q", "-m", "somebody's repository that we merely lie in")
    assert environment_of_copy(tmp_path)["commit"] is None

    git(tmp_path, "add", "environment.py")
    git(tmp_path, "commit", "-q", "-m", "ours")
    clean = environment_of_copy(tmp_path)
    assert clean["commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert clean["uncommitted_changes"] is False

    (tmp_path / "new.py").write_text("")
    assert environment_of_copy(tmp_path)["uncommitted_changes"] is True
