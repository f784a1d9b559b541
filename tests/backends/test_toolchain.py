"""The build of the kernel: what is built, when it is built again, and what is never loaded."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from ms_adam.backends import toolchain

ROOT = Path(toolchain.__file__).parents[2]
SOURCE = 'extern "C" int Answer() { return ANSWER; }\n'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "answer.cc"
    path.write_text(SOURCE.replace("ANSWER", "42"))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("MS_ADAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path, monkeypatch, cache):
    """A compiler that keeps a list of what it built."""
    log, real = tmp_path / "log", toolchain.find_compiler().command[0]
    program = tmp_path / "bin" / "compiler"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version*) ;; *) echo "$*" >> ' + f'"{log}" ;; esac\n'
        f'exec {real} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))
    return lambda: log.read_text().splitlines() if log.exists() else []


def answer(library):
    return ctypes.CDLL(str(library)).Answer()


def entries(cache):
    return sorted(path.name for path in cache.iterdir() if path.name != "lock")


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


# --- built once ----------------------------------------------------------------------------------


def test_a_source_is_built_once(source, cache, compiler):
    library = toolchain.build(source)
    assert answer(library) == 42
    assert toolchain.build(source) == library
    assert len(compiler()) == 1
    assert entries(cache) == [library.name]
    assert mode(cache) == 0o700 and mode(library) == 0o700


@pytest.mark.parametrize("change", ["source", "flags", "version", "cpu", "compiler"])
def test_what_else_is_built(source, cache, compiler, change, monkeypatch, tmp_path):
    first = toolchain.build(source)
    if change == "source":
        source.write_text(SOURCE.replace("ANSWER", "43"))
    elif change == "flags":
        monkeypatch.setattr(toolchain, "FLAGS", (*toolchain.FLAGS, "-DX"))
    elif change == "cpu":
        monkeypatch.setattr(toolchain, "_cpu", lambda: {"flags": "none"})
    elif change == "compiler":
        monkeypatch.setenv("CXX", os.environ["CXX"] + " -DX")
    else:
        program = Path(os.environ["CXX"])
        program.write_text(program.read_text().replace("*--version*)", "*--version*) echo new"))
    second = toolchain.build(source)
    assert second != first and len(compiler()) == 2
    assert answer(first) == 42 and answer(second) == (43 if change == "source" else 42)


def test_the_cpu_is_known():
    assert len(toolchain._cpu()) > 1


# --- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({"MS_ADAM_CACHE": "{}/a", "XDG_CACHE_HOME": "{}/b"}, "a"),
        ({"XDG_CACHE_HOME": "{}/b"}, "b/ms_adam"),
        ({"XDG_CACHE_HOME": "relative"}, ".cache/ms_adam"),
        ({"MS_ADAM_CACHE": "~/c"}, "c"),
        ({}, ".cache/ms_adam"),
    ],
)
def test_directory(monkeypatch, tmp_path, variables, expected):
    for name in ("MS_ADAM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, text in variables.items():
        monkeypatch.setenv(name, text.format(tmp_path))
    assert toolchain._cache_directory() == tmp_path / expected
    assert mode(tmp_path / expected) == 0o700


def test_a_directory_that_others_can_enter_is_closed(source, cache):
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    toolchain.build(source)
    assert mode(cache) == 0o700


def in_private_directory(library, cache):
    return (
        library.parent != cache
        and mode(library.parent) == 0o700
        and library.parent.name.startswith("ms_adam-")
    )


def test_a_directory_that_can_not_be_made(source, cache, monkeypatch):
    """As where HOME is read-only."""
    cache.write_text("a file")
    library = toolchain.build(source)
    assert in_private_directory(library, cache) and answer(library) == 42
    assert toolchain.build(source) == library


def test_a_directory_that_can_not_be_written(source, cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "_locked", refuse)  # the first that writes; root may write anyway
        library = toolchain.build(source)
        assert in_private_directory(library, cache) and answer(library) == 42
    built = toolchain.build(source)
    assert built.parent == cache
    with monkeypatch.context() as patch:  # what is there already can be read
        patch.setattr(toolchain, "_locked", refuse)
        assert toolchain.build(source) == built


def test_a_foreign_directory_is_not_used(source, cache, monkeypatch):
    toolchain.build(source)
    monkeypatch.setattr(toolchain.os, "geteuid", lambda: os.getuid() + 1)
    assert toolchain._cache_directory() is None


def test_the_private_directory_goes_with_its_process(source, cache):
    cache.write_text("a file")
    library = Path(run_alone(source).stdout.strip())
    assert library.parent.name.startswith("ms_adam-") and not library.parent.exists()


# --- what is never loaded ------------------------------------------------------------------------


def truncate(library):
    library.write_bytes(library.read_bytes()[:-1])


def flip(library):
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)


def empty(library):
    library.write_bytes(b"")


def let_the_group_write(library):
    library.chmod(0o720)


def let_others_write(library):
    library.chmod(0o702)


def give_away(library):
    os.chown(library, os.getuid() + 1, -1)


def link(library):
    other = library.with_suffix(".other")
    library.rename(other)
    library.symlink_to(other)


SPOILT = [truncate, flip, empty, let_the_group_write, let_others_write, link]
if os.geteuid() == 0:  # nobody else can give a file away
    SPOILT.append(give_away)


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_spoilt_entry_is_built_anew(source, cache, compiler, spoil):
    library = toolchain.build(source)
    inode = os.lstat(library).st_ino
    spoil(library)
    assert toolchain.build(source) == library
    assert len(compiler()) == 2
    status = os.lstat(library)
    assert status.st_ino != inode and stat.S_ISREG(status.st_mode)
    assert status.st_uid == os.geteuid() and mode(library) == 0o700
    assert answer(library) == 42


def test_a_foreign_entry_is_not_intact(source, cache, monkeypatch):
    library = toolchain.build(source)
    assert toolchain._is_intact(library)
    monkeypatch.setattr(toolchain.os, "geteuid", lambda: os.getuid() + 1)
    assert not toolchain._is_intact(library)


# --- compilers -----------------------------------------------------------------------------------


def programs(directory, names):
    directory.mkdir()
    for name in names:
        (directory / name).write_text(f"#!/bin/sh\necho {name}\n")
        (directory / name).chmod(0o755)
    return str(directory)


@pytest.mark.parametrize(
    "cxx, there, expected",
    [
        (None, ["c++", "g++", "clang++"], "c++"),
        (None, ["g++", "clang++"], "g++"),
        (None, ["clang++"], "clang++"),
        ("special -m64", ["special", "c++"], "special"),
        ("missing", ["g++"], "g++"),
    ],
)
def test_the_first_compiler_is_taken(monkeypatch, tmp_path, cxx, there, expected):
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", there))
    monkeypatch.setenv("CXX", cxx or "")
    command, version = toolchain.find_compiler()
    assert command == (str(tmp_path / "bin" / expected), *(cxx or "").split()[1:])
    assert version == expected + "\n"


@pytest.mark.parametrize("cxx, said", [("", "$CXX (not set)"), ("icpc -O3", "$CXX (icpc -O3)")])
def test_no_compiler(source, cache, monkeypatch, tmp_path, cxx, said):
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", []))
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(toolchain.BuildError) as error:
        toolchain.build(source)
    assert str(error.value) == (
        f"no C++ compiler was found; looked for {said}, c++, g++ and clang++ in PATH"
    )


def test_a_cxx_that_is_no_command(monkeypatch):
    monkeypatch.setenv("CXX", "g++ 'open")
    with pytest.raises(toolchain.BuildError, match="CXX=g.. 'open"):
        toolchain.find_compiler()


def test_arguments_of_cxx_are_kept(source, cache, monkeypatch):
    source.write_text(SOURCE)
    monkeypatch.setenv("CXX", toolchain.find_compiler().command[0] + " -DANSWER=7")
    assert answer(toolchain.build(source)) == 7


def test_a_compiler_without_march_native(source, cache, compiler):
    program = Path(os.environ["CXX"])
    program.write_text(
        program.read_text().replace(
            "exec ",
            'case "$*" in *native*) echo "unknown: -march=native" >&2; exit 1;; esac\nexec ',
        )
    )
    assert answer(toolchain.build(source)) == 42
    assert ["-march=native" in line for line in compiler()] == [True, False]


def test_an_error_shows_what_the_compiler_said(source, cache):
    source.write_text("int Answer() { return nonsense; }\n")
    with pytest.raises(toolchain.BuildError) as error:
        toolchain.build(source)
    assert "failed to build the kernel (exit status 1):" in str(error.value)
    assert "nonsense" in str(error.value) and len(str(error.value).splitlines()) <= 11
    assert entries(cache) == []


def test_one_line_is_logged_for_a_build(source, cache, caplog):
    caplog.set_level("INFO")
    library = toolchain.build(source)
    toolchain.build(source)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"Built {library} with ")


# --- many processes ------------------------------------------------------------------------------

ALONE = """
import fcntl, importlib.util, sys, time
spec = importlib.util.spec_from_file_location("toolchain", sys.argv[1])
toolchain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toolchain)
assert "mindspore" not in sys.modules
if sys.argv[3] == "no locks":
    def refuse(file, operation):
        raise OSError(37, "No locks available")
    fcntl.flock = refuse
while time.time() < float(sys.argv[4]):
    pass
library = toolchain.build(sys.argv[2])
import ctypes
assert ctypes.CDLL(str(library)).Answer() == 42
print(library)
"""


def start_alone(source, locks="locks", at=0.0):
    return subprocess.Popen(
        [sys.executable, "-c", ALONE, toolchain.__file__, str(source), locks, str(at)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_alone(source):
    process = start_alone(source)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return subprocess.CompletedProcess([], 0, stdout, stderr)


@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_eight_processes_at_once(source, cache, compiler, locks):
    at = time.time() + 1.0
    processes = [start_alone(source, locks, at) for _ in range(8)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    libraries = {stdout for stdout, _ in outputs}
    assert len(libraries) == 1
    assert entries(cache) == [Path(libraries.pop().strip()).name]
    if locks == "locks":
        assert len(compiler()) == 1
    else:
        assert 1 <= len(compiler()) <= 8


# --- installed -----------------------------------------------------------------------------------


def test_the_source_is_in_the_wheel(tmp_path):
    """An editable install reads it from the tree, where it lies beside the module."""
    project = tmp_path / "project"
    shutil.copytree(
        ROOT / "ms_adam", project / "ms_adam", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, project)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(tmp_path),
            str(project),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    kernel = Path(toolchain.__file__).with_name("fused_cpu.cc")
    with zipfile.ZipFile(wheel) as files:
        assert files.read("ms_adam/backends/fused_cpu.cc") == kernel.read_bytes()
