"""Builds a C++ source of ours into a shared library, once for each user, compiler and CPU.

The library is native code that this process will load, so it is kept as carefully as a key: in a
directory that only its owner can enter, and an entry that is damaged, foreign or writable for
others is built anew, never loaded.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, Tuple

_log = logging.getLogger(__name__)

FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-ffp-contract=off",  # a * b + c in two roundings, in vectors and at their ends alike
    "-fno-math-errno",  # std::sqrt is the instruction; nobody reads errno
    "-fno-trapping-math",  # both sides of a selection may be computed; no exception flag is read
    "-Wl,-z,nodelete",  # stays loaded while a thread that came too late runs out
)
# Vectors as wide as this CPU has. Not every compiler knows the flag on every machine.
NATIVE = ("-march=native",)

_DIGEST = hashlib.sha256().digest_size


class BuildError(RuntimeError):
    """There is no library, and why: a phrase without a full stop."""


class Compiler(NamedTuple):
    """A C++ compiler.

    Attributes:
        command: how it is called: a program and arguments.
        version: what it says about itself.
    """

    command: Tuple[str, ...]
    version: str


def find_compiler():
    """The first of $CXX, c++, g++ and clang++ that can be called.

    Returns:
        A `Compiler`.

    Raises:
        BuildError: If there is none.
    """
    wanted = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    try:
        commands = [shlex.split(command) for command in wanted if command.strip()]
    except ValueError as error:
        raise BuildError(f"CXX={wanted[0]} is no command: {error}") from error
    for words in commands:
        program = shutil.which(words[0])
        if program is None:
            continue
        command = (program, *words[1:])
        answer = subprocess.run(
            [*command, "--version"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if answer.returncode == 0:
            return Compiler(command, answer.stdout.decode(errors="replace"))
    given = f"$CXX ({wanted[0]})" if wanted[0] else "$CXX (not set)"
    raise BuildError(f"no C++ compiler was found; looked for {given}, c++, g++ and clang++ in PATH")


def build(source):
    """Builds a source, or finds what was built from it before.

    The directory is $MS_ADAM_CACHE, else ms_adam in $XDG_CACHE_HOME, else in ~/.cache. If it can not
    be used, a temporary directory of this process takes its place.

    Any number of processes may call this at once: one builds, the others wait for it.

    Args:
        source: path of a C++ file that includes none of ours.

    Returns:
        The Path of a shared library.

    Raises:
        BuildError: If no compiler is found or it refuses the source.
    """
    source = Path(source)
    text = source.read_bytes()
    compiler = find_compiler()
    key = hashlib.sha256(json.dumps([text.decode(), FLAGS, NATIVE, compiler, _cpu()]).encode())
    name = f"{source.stem}-{key.hexdigest()[:32]}.so"

    directory = _cache_directory()
    if directory is not None:
        library = directory / name
        if _is_intact(library):
            return library
        try:
            with _locked(directory):
                if not _is_intact(library):  # somebody may have built it while we waited
                    _compile(compiler, text, library)
            return library
        except OSError as error:
            _log.info("%s can not be used: %s.", directory, error)
    library = _private_directory() / name
    if not _is_intact(library):
        _compile(compiler, text, library)
    return library


def _cpu():
    """What -march=native looks at: the kind of CPU and what it can do."""
    keys = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    found = {"machine": platform.machine()}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() in keys:
                found.setdefault(key.strip(), value.strip())
    return found


def _cache_directory():
    """The cache directory, mode 0700 and ours; None if that can not be had."""
    given, xdg = os.environ.get("MS_ADAM_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if given:
        directory = Path(given).expanduser().absolute()
    elif os.path.isabs(xdg):  # the XDG specification has relative paths ignored
        directory = Path(xdg, "ms_adam")
    else:
        directory = Path(os.path.expanduser("~"), ".cache", "ms_adam")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.geteuid():
            _log.info("%s belongs to another user and is not used.", directory)
            return None
        if stat.S_IMODE(status.st_mode) != 0o700:
            directory.chmod(0o700)
    except OSError as error:
        _log.info("%s can not be used: %s.", directory, error)
        return None
    return directory


_private = None


def _private_directory():
    """A directory of this process, removed when it ends."""
    global _private
    if _private is None:
        _private = tempfile.TemporaryDirectory(prefix="ms_adam-")  # mode 0700
    return Path(_private.name)


@contextlib.contextmanager
def _locked(directory):
    """Lets one process at a time in. It saves time alone: entries are renamed into place whole."""
    with open(directory / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # goes with the process, however that ends
        except OSError as error:
            _log.info("%s has no locks (%s); others may build at the same time.", directory, error)
        yield


def _is_intact(library):
    """Whether an entry is ours alone and ends in the digest of what comes before."""
    try:
        status = os.lstat(library)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return False
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
        content = library.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def _compile(compiler, text, library):
    """Compiles a source to a temporary name and renames it into place."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as scratch:
        output = Path(scratch, "library.so")
        for flags in ((*FLAGS, *NATIVE), FLAGS):
            run = subprocess.run(
                [*compiler.command, *flags, "-x", "c++", "-", "-o", str(output)],
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
            if run.returncode == 0:
                break
        else:
            said = run.stdout.decode(errors="replace").strip().splitlines()[-10:]
            raise BuildError(
                "\n".join(
                    [
                        f"{shlex.join(compiler.command)} failed to build the "
                        f"kernel (exit status {run.returncode}):",
                        *said,
                    ]
                )
            )
        content = output.read_bytes()
        # The loader does not look behind the sections, so that digest and library are one file.
        output.write_bytes(content + hashlib.sha256(content).digest())
        output.chmod(0o700)
        os.replace(output, library)
    _log.info(
        "Built %s with %s in %.1f s.", library, compiler.command[0], time.monotonic() - started
    )
