"""Nothing but what is for the CPU assumes the CPU."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ms_adam"

# Where the CPU is named, how often, and why that is no assumption.
NAMED = {
    "backends/composite.py": (2, "use_offload: the host is a CPU; a slow operator of the CPU's"),
    "backends/fused.py": (1, "the kernel for the CPU refuses other devices"),
    "backends/launch.py": (1, "an address of host memory is all that the kernel needs"),
    "backends/operators.py": (2, "operators that are only used on the CPU or on the host"),
    "backends/packing.py": (1, "what a message on the CPU cannot hold"),
    "lab/bench/contenders.py": (2, "torch and the loop over memory run there"),
    "lab/bench/steps.py": (2, "offloaded state, and nn.Adam's own row updates, are there"),
    "lab/cli/validate.py": (2, "the default and one of the choices of --device-target"),
    "lab/studies/paper/cache.py": (1, "the curves of a figure come from one kind of device"),
    "lab/studies/text/sides.py": (1, "nn.Adam's own row updates, whose target is the CPU"),
    "options.py": (1, "use_offload changes nothing where the device is the host"),
    "state.py": (2, "load_state writes what use_offload keeps in host memory there, and bfloat16"),
    "lab/studies/matrix/validate.py": (1, "there may be many processes on it"),
}


def named(source):
    return sum(
        isinstance(node, ast.Constant) and node.value == "CPU"
        for node in ast.walk(ast.parse(source))
    )


def test_the_cpu_is_named_where_it_is_meant():
    found = {
        str(path.relative_to(PACKAGE)): named(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    assert {path: count for path, count in found.items() if count} == {
        path: count for path, (count, _) in NAMED.items()
    }


@pytest.mark.parametrize(
    "line",
    [
        'ms.set_context(device_target="CPU")',
        'ms.set_device("CPU")',
        'content = {"environment": environment("CPU")}',
    ],
)
def test_one_more_would_be_found(line):
    assert named((PACKAGE / "lab" / "run" / "worker.py").read_text() + line) == 1
