"""The reason why MindSpore has no such device here, from its messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

_PLUGINS = {"GPU": "libmindspore_gpu", "Ascend": "libmindspore_ascend"}
_REFUSED = "Unsupported device target"


def why_not(device_target: str, said: str, variables: Mapping[str, str]) -> Optional[str]:
    """The obstacle between MindSpore and a device.

    MindSpore's own message sends its reader to check "whether the environment is configured
    correctly"; the fault stands in other lines, or nowhere.

    Args:
        device_target: "CPU", "GPU" or "Ascend".
        said: The output of a process that asked for the device.
        variables: Its environment variables.

    Returns:
        A sentence or two; None if MindSpore did not refuse the device, but failed in another way.
    """
    plugin = _PLUGINS.get(device_target)
    if plugin is None or _REFUSED not in said:
        return None
    failed = re.search(rf"Load dynamic library: ({plugin}\S*) failed\. (.+)", said)
    home = variables.get("CUDA_HOME")
    if failed:
        reason = f"its plugin {failed[1]} cannot be loaded: {failed[2].strip()}"
    elif device_target == "GPU" and not home:
        reason = "CUDA_HOME is not set, without which it looks for no GPU"
    elif device_target == "GPU":
        reason = (
            f"it has no plugin for the version of CUDA that {home}/bin/nvcc --version tells, "
            f"or there is no such file (the plugins of 2.10.0 are for CUDA 11.1 and 11.6, "
            f"the latter also for later 11)"
        )
    else:
        reason = f"its wheel has no {plugin}"
    return f"MindSpore has no {device_target} here: {reason}. docs/devices.md says what it needs"
