"""Builds our C++ into a shared library, once for each user, compiler and CPU.

The library becomes native code of this process, so it is protected like a key. It lies in a
directory that only its owner can enter. An entry that is damaged, foreign or writable by others is
rebuilt, never loaded.
"""

import contextlib
import fcntl
import functools
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
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

_log = logging.getLogger(__name__)
_LONG = 2.0  # seconds of silence

FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-ffp-contract=off",  # a * b + c rounds twice, in vectors and in their remainders alike
    "-fno-math-errno",  # std::sqrt is one instruction; errno is not read
    "-fno-trapping-math",  # both sides of a selection may be computed; exception flags are not read
    "-Wl,-z,nodelete",  # stays loaded until threads that started too late have returned
)
# The widest vectors of this CPU. Some compilers lack the flag on some machines.
NATIVE = ("-march=native",)
# What a wheel may carry of a library, the widest vectors first: a name for each, the flags, and the
# features in /proc/cpuinfo that it needs. The results are the same.
VARIANTS = {
    "x86_64": (
        ("avx512", ("-march=x86-64-v4",), "avx512f avx512bw avx512cd avx512dq avx512vl fma bmi2"),
        ("avx2", ("-march=x86-64-v3",), "avx2 fma f16c movbe abm bmi1 bmi2"),
        ("baseline", (), ""),
    ),
    "aarch64": (("baseline", (), ""),),
}
# Of the machine on which the wheel is installed, the C library is all that is needed.
_ALONE = ("-static-libstdc++", "-static-libgcc")

_DIGEST = hashlib.sha256().digest_size


class BuildError(RuntimeError):
    """The library cannot be built. The message is a phrase without a full stop."""


class Compiler(NamedTuple):
    """A C++ compiler.

    Attributes:
        command: Program and arguments.
        version: Its output for `--version`.
    """

    command: Tuple[str, ...]
    version: str


def find_compiler() -> Compiler:
    """Returns the first of $CXX, c++, g++ and clang++ that runs.

    Raises:
        BuildError: If none of them does.
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
        try:
            answer = _run([*command, "--version"], stderr=subprocess.DEVNULL)
        except OSError:  # no program of this kind of machine
            continue
        if answer.returncode == 0:
            return Compiler(command, answer.stdout.decode(errors="replace"))
    given = f"$CXX ({wanted[0]})" if wanted[0] else "$CXX (not set)"
    raise BuildError(f"no C++ compiler was found; looked for {given}, c++, g++ and clang++ in PATH")


def _run(command, **options):
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.run(command, stdout=pipe, stdin=nothing, check=False, **options)


def build(source: Union[str, Path]) -> Path:
    """Builds a library, or returns the one that was built before from the same text.

    The directory is $MS_ADAM_CACHE, else ms_adam in $XDG_CACHE_HOME, else in ~/.cache. If it cannot
    be used, a temporary directory of this process takes its place.

    Any number of processes may call this at once: one builds and the others wait for it.

    Args:
        source: A C++ file that includes none of ours; or a folder with one .cc file and the headers
            (.h) that it includes.

    Returns:
        The path of the shared library, named after the source. Without a compiler, that of a
        library of the same text that `prebuild` has put beside the source.

    Raises:
        BuildError: If there is neither a compiler nor such a library; if it rejects the source.
    """
    source = Path(source)
    files = _read(source)
    try:
        compiler = find_compiler()
    except BuildError:
        for variant, _, needed in VARIANTS.get(platform.machine(), ()):
            library = _prebuilt(source.with_name("prebuilt"), source, files, variant)
            if library.exists() and set(needed.split()) <= set(_cpu().get("flags", "").split()):
                return library
        raise
    key = hashlib.sha256(json.dumps([files, FLAGS, NATIVE, compiler, _cpu()]).encode())
    name = f"{source.stem}-{key.hexdigest()[:32]}.so"

    directory = _cache_directory()
    if directory is not None:
        library = directory / name
        if _is_intact(library):
            return library
        try:
            with _locked(directory):
                if not _is_intact(library):  # another process may have built it meanwhile
                    _compile(compiler, files, library)
            return library
        except OSError as error:
            _log.info("%s cannot be used: %s.", directory, error)
    library = Path(_private_directory().name) / name
    if not _is_intact(library):
        _compile(compiler, files, library)
    return library


def prebuild(source: Union[str, Path], folder: Union[str, Path]) -> Dict[str, Path]:
    """Builds all variants of a library for this machine into a folder, for a wheel.

    Returns:
        The path of each variant.

    Raises:
        BuildError: As `build`.
    """
    source, compiler = Path(source), find_compiler()
    files, built = _read(source), {}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for variant, flags, _ in VARIANTS.get(platform.machine(), ()):
        built[variant] = _prebuilt(Path(folder), source, files, variant)
        _compile(compiler, files, built[variant], [(*FLAGS, *flags, *_ALONE)])
    return built


def _prebuilt(folder, source, files, variant):
    key = hashlib.sha256(json.dumps([files, FLAGS, platform.machine()]).encode())
    return folder / f"{source.stem}-{key.hexdigest()[:32]}-{variant}.so"


def _read(source: Path) -> Dict[str, str]:
    """Returns the text of each file of a source, by name."""
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.suffix in (".cc", ".h"))
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def _cpu() -> Dict[str, str]:
    """Returns what -march=native depends on: the model of the CPU and its features."""
    keys = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    found = {"machine": platform.machine()}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() in keys:
                found.setdefault(key.strip(), value.strip())
    return found


def _cache_directory() -> Optional[Path]:
    """Returns the cache directory, which only this user can enter; None if there is none."""
    given, xdg = os.environ.get("MS_ADAM_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification ignores relative paths.
    home = xdg if os.path.isabs(xdg) else "~/.cache"
    directory = Path(given or f"{home}/ms_adam")
    try:
        directory = directory.expanduser().absolute()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.geteuid():
            _log.info("%s belongs to another user and is not used.", directory)
            return None
        if status.st_mode & stat.S_ISVTX:  # as /tmp: closing it would lock the others out
            _log.info("%s is shared with other users and is not used.", directory)
            return None
        if stat.S_IMODE(status.st_mode) != 0o700:
            directory.chmod(0o700)
    except (OSError, RuntimeError, KeyError) as error:  # the last two: a user without a home
        _log.info("%s cannot be used: %s.", directory, error)
        return None
    return directory


@functools.lru_cache(maxsize=None)
def _private_directory() -> tempfile.TemporaryDirectory:
    """Returns a directory of this process, removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="ms_adam-")  # mode 0700


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Admits one process at a time. This only saves time: entries are renamed into place whole."""
    with open(directory / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it ends
        except OSError as error:
            _log.info("%s has no locks (%s); others may build at the same time.", directory, error)
        yield


@contextlib.contextmanager
def _telling(*message: str) -> Iterator[None]:
    """Logs a warning, which Python prints, if the work within takes long."""
    timer = threading.Timer(_LONG, _log.warning, message)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_intact(library: Path) -> bool:
    """Returns whether only this user can write an entry and its digest fits its content."""
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


def _compile(
    compiler: Compiler,
    files: Dict[str, str],
    library: Path,
    attempts: Sequence[Tuple[str, ...]] = (),
) -> None:
    """Compiles copies of the files, so that the library is that of the hashed text.

    `attempts` are flags, of which the first are used that the compiler takes; by default those of
    this CPU.
    """
    started = time.monotonic()
    words = "ms_adam: building the %s with %s, once for this machine: about half a minute."
    with _telling(
        words, library.stem.partition("-")[0], compiler.command[0]
    ), tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as scratch:
        for name, text in files.items():
            Path(scratch, name).write_text(text, encoding="utf-8")
        (unit,) = (str(Path(scratch, name)) for name in files if name.endswith(".cc"))
        output = Path(scratch, "library.so")
        for flags in attempts or ((*FLAGS, *NATIVE), FLAGS):
            run = _run(
                [*compiler.command, *flags, unit, "-o", str(output)],
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
            )
            if run.returncode == 0:
                break
        else:
            said = run.stdout.decode(errors="replace").strip().splitlines()[-10:]
            command = " ".join(map(shlex.quote, compiler.command))
            failed = f"{command} failed to build the kernel (exit status {run.returncode}):"
            raise BuildError("\n".join([failed, *said]))
        content = output.read_bytes()
        # The loader ignores bytes after the sections, so library and digest can be one file.
        output.write_bytes(content + hashlib.sha256(content).digest())
        output.chmod(0o700)
        os.replace(output, library)
    _log.info(
        "Built %s with %s in %.1f s.", library, compiler.command[0], time.monotonic() - started
    )
