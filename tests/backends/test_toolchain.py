"""The build of the kernel: what is built, when it is rebuilt, and what is never loaded."""

import ctypes
import os
import pwd
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ms_adam.backends import toolchain
from ms_adam.backends.fused import SOURCE as KERNEL

SOURCE = 'extern "C" int Answer() { return ANSWER; }\n'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "answer.cc"
    path.write_text(SOURCE.replace("ANSWER", "42"))
    return path


@pytest.fixture
def folder(tmp_path):
    """The same with a header."""
    path = tmp_path / "kernel"
    path.mkdir()
    (path / "answer.cc").write_text('#include "number.h"\n' + SOURCE)
    (path / "number.h").write_text("#define ANSWER 42\n")
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("MS_ADAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler(tmp_path, monkeypatch, cache):
    """A compiler that logs its builds."""
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


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def answer(library):
    return ctypes.CDLL(str(library)).Answer()


def entries(cache):
    return sorted(path.name for path in cache.iterdir() if path.name != "lock")


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


# --- built once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("long, told", [(0.0, 1), (60.0, 0)])
def test_a_build_that_takes_long_is_told(source, cache, caplog, monkeypatch, long, told):
    monkeypatch.setattr(toolchain, "_LONG", long)
    for _ in range(2):
        toolchain.build(source)
    words = f"ms_adam: building the {source.stem} with {toolchain.find_compiler().command[0]}, once"
    messages = [it.getMessage() for it in caplog.records if it.levelname == "WARNING"]
    assert len(messages) == told and all(words in message for message in messages)


@pytest.mark.parametrize("kind", ["source", "folder"])
def test_a_source_is_built_once(request, cache, compiler, kind):
    source = request.getfixturevalue(kind)
    library = toolchain.build(source)
    assert answer(library) == 42 and library.name.startswith(source.stem)
    assert toolchain.build(source) == library
    assert len(compiler()) == 1
    assert entries(cache) == [library.name]
    assert mode(cache) == 0o700 and mode(library) == 0o700


@pytest.mark.parametrize("change", ["source", "header", "flags", "version", "cpu", "compiler"])
def test_a_change_makes_a_new_library(folder, cache, compiler, change, monkeypatch):
    first = toolchain.build(folder)
    program = Path(os.environ["CXX"])
    if change == "source":
        edit(folder / "answer.cc", "return ANSWER", "return 43")
    elif change == "header":
        edit(folder / "number.h", "42", "43")
    elif change == "flags":
        monkeypatch.setattr(toolchain, "FLAGS", (*toolchain.FLAGS, "-DX"))
    elif change == "version":
        edit(program, "*--version*)", "*--version*) echo new")
    elif change == "cpu":
        monkeypatch.setattr(toolchain, "_cpu", lambda: {"flags": "none"})
    else:
        monkeypatch.setenv("CXX", f"{program} -DX")
    second = toolchain.build(folder)
    assert second != first and len(compiler()) == 2
    assert ("-DX" in compiler()[1].split()) == (change in ("flags", "compiler"))
    assert answer(first) == 42 and answer(second) == (43 if change in ("source", "header") else 42)


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


def build_in_private_directory(source, cache):
    library = toolchain.build(source)
    assert library.parent != cache and mode(library.parent) == 0o700
    assert library.parent.name.startswith("ms_adam-") and answer(library) == 42
    return library


def test_a_directory_that_cannot_be_made(source, cache):
    """As where HOME is read-only."""
    cache.write_text("a file")
    library = build_in_private_directory(source, cache)
    assert toolchain.build(source) == library


def test_a_home_that_nobody_knows(source, cache, monkeypatch):
    """A user id without an entry in the password file, as in containers, and no HOME."""

    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("MS_ADAM_CACHE")
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    build_in_private_directory(source, cache)


def test_a_directory_that_all_users_share_stays_open(source, cache):
    """MS_ADAM_CACHE=/tmp, as root: without access to it other users could hardly work."""
    cache.mkdir()
    cache.chmod(0o1777)
    build_in_private_directory(source, cache)
    assert mode(cache) == 0o1777


def test_a_directory_that_cannot_be_written(source, cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "_locked", refuse)  # the first that writes; root may write anyway
        build_in_private_directory(source, cache)
    built = toolchain.build(source)
    assert built.parent == cache
    with monkeypatch.context() as patch:  # an existing entry can be read
        patch.setattr(toolchain, "_locked", refuse)
        assert toolchain.build(source) == built


def test_nothing_of_another_user_is_used(source, cache, monkeypatch):
    library = toolchain.build(source)
    assert toolchain._is_intact(library)
    monkeypatch.setattr(toolchain.os, "geteuid", lambda: os.getuid() + 1)
    assert toolchain._cache_directory() is None and not toolchain._is_intact(library)


# --- what is never loaded ------------------------------------------------------------------------


def flip(library):
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)


def link(library):
    other = library.with_suffix(".other")
    library.rename(other)
    library.symlink_to(other)


SPOILT = {
    "truncated": lambda library: library.write_bytes(library.read_bytes()[:-1]),
    "flipped": flip,
    "empty": lambda library: library.write_bytes(b""),
    "group may write": lambda library: library.chmod(0o720),
    "others may write": lambda library: library.chmod(0o702),
    "link": link,
}
if os.geteuid() == 0:  # only root can give a file away
    SPOILT["given away"] = lambda library: os.chown(library, os.getuid() + 1, -1)


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_entry_is_rebuilt(source, cache, compiler, how):
    library = toolchain.build(source)
    inode = os.lstat(library).st_ino
    SPOILT[how](library)
    assert toolchain.build(source) == library
    assert len(compiler()) == 2
    status = os.lstat(library)
    assert status.st_ino != inode and stat.S_ISREG(status.st_mode)
    assert status.st_uid == os.geteuid() and mode(library) == 0o700
    assert answer(library) == 42


# --- compilers -----------------------------------------------------------------------------------


def programs(directory, names):
    directory.mkdir()
    for name in names:
        words = "of another machine" if name == "foreign" else f"#!/bin/sh\necho {name}\n"
        (directory / name).write_text(words)
        (directory / name).chmod(0o755)
    return str(directory)


@pytest.mark.parametrize(
    "cxx, present, expected",
    [
        (None, ["c++", "g++", "clang++"], "c++"),
        (None, ["g++", "clang++"], "g++"),
        (None, ["clang++"], "clang++"),
        ("special -m64", ["special", "c++"], "special"),
        ("missing", ["g++"], "g++"),
        ("foreign", ["foreign", "g++"], "g++"),
    ],
)
def test_the_first_compiler_is_taken(monkeypatch, tmp_path, cxx, present, expected):
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", present))
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


def test_arguments_of_cxx_are_passed_on(source, cache, monkeypatch):
    source.write_text(SOURCE)
    monkeypatch.setenv("CXX", toolchain.find_compiler().command[0] + " -DANSWER=7")
    assert answer(toolchain.build(source)) == 7


def test_a_compiler_without_march_native(source, cache, compiler):
    rejects = 'case "$*" in *native*) echo "unknown: -march=native" >&2; exit 1;; esac\nexec '
    edit(Path(os.environ["CXX"]), "exec ", rejects)
    assert answer(toolchain.build(source)) == 42
    assert ["-march=native" in line for line in compiler()] == [True, False]


def test_an_error_shows_the_output_of_the_compiler(source, cache):
    source.write_text("int Answer() { return nonsense; }\n")
    with pytest.raises(toolchain.BuildError) as error:
        toolchain.build(source)
    assert "failed to build the kernel (exit status 1):" in str(error.value)
    assert "nonsense" in str(error.value) and len(str(error.value).splitlines()) <= 11
    assert entries(cache) == []


def test_a_build_logs_one_line(source, cache, caplog):
    caplog.set_level("INFO")
    library = toolchain.build(source)
    toolchain.build(source)
    (message,) = (it.getMessage() for it in caplog.records if it.levelname == "INFO")
    assert message.startswith(f"Built {library} with ")


def test_the_kernel_builds_without_warnings():
    flags = [flag for flag in toolchain.FLAGS if flag not in ("-shared", "-O3")]
    command = [*toolchain.find_compiler().command, *flags, "-Wall", "-Wextra", "-fsyntax-only"]
    command.append(str(next(KERNEL.glob("*.cc"))))
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and done.stderr == ""


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


def build_in(processes, source, locks="locks"):
    """Builds in processes of their own that start at once; returns the libraries' paths."""
    command = [sys.executable, "-c", ALONE, toolchain.__file__, str(source), locks]
    command.append(str(time.time() + 1.0 if processes > 1 else 0.0))
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * processes, outputs
    return [Path(stdout.strip()) for stdout, _ in outputs]


@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_eight_processes_at_once(source, cache, compiler, locks):
    (library,) = set(build_in(8, source, locks))
    assert entries(cache) == [library.name]
    assert 1 <= len(compiler()) <= (1 if locks == "locks" else 8)


def test_the_private_directory_is_removed_with_its_process(source, cache):
    cache.write_text("a file")
    (library,) = build_in(1, source)
    assert library.parent.name.startswith("ms_adam-") and not library.parent.exists()
