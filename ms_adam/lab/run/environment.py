"""The versions, machine and time of a result. No host name, no user, no path."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Optional


def environment(device_target: Optional[str] = None) -> dict[str, object]:
    """Describes the environment that a program runs in, in plain values for JSON.

    ``device_target`` is what MindSpore computed on ("CPU", "GPU", "Ascend"), if it did. ``commit``
    is None outside a git checkout of this project; ``uncommitted_changes`` says whether the
    checkout had changes on top of it.

    Example:
        >>> environment("CPU")["device_target"]
        'CPU'
    """
    commit, changed = _commit()
    system = _field("/etc/os-release", "PRETTY_NAME", "=") or platform.system()
    machine = platform.machine()
    return {
        "ms_adam": version("ms_adam"),
        "commit": commit,
        "uncommitted_changes": changed,
        "mindspore": version("mindspore"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "system": f"{system}, {machine}",
        "cpu": _field("/proc/cpuinfo", "model name", ":") or platform.processor() or machine,
        "cores": cores(),
        "device_target": device_target,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def version(package: str) -> Optional[str]:
    """Returns the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Returns the number of cores that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def _commit() -> tuple[Optional[str], Optional[bool]]:
    """The commit of this file; not that of a repository that merely contains it."""
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return commit, None if status is None else bool(status)


def _git(*arguments: str) -> Optional[str]:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _field(path: str, key: str, separator: str) -> Optional[str]:
    """The value of the first ``key <separator> value`` line of a file."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(separator)
        if name.strip() == key:
            return value.strip().strip('"')
    return None
