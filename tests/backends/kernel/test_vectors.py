"""The compiler vectorizes the loops over elements, which are 3 to 11 times slower otherwise."""

import platform
import re
import subprocess
from pathlib import Path

import pytest

from ms_adam.backends import toolchain
from ms_adam.backends.fused import SOURCE

UNIT = Path(__file__).with_name("vectors.cc")
MACHINES = {"x86_64": ("x86-64-v3", "x86-64-v4"), "aarch64": ("armv8-a",)}
LOOP = "for (int64_t i = "  # in the kernel, a loop over elements


def missed_loops(folder, march):
    """Returns the lines of the loops over elements in step.h that g++ does not vectorize."""
    compiler = toolchain.find_compiler()
    if "Free Software Foundation" not in compiler.version:
        pytest.skip(f"not run: {compiler.command[0]} is not g++, whose reports this test reads")
    flags = [flag for flag in toolchain.FLAGS if flag != "-shared"]
    flags += [f"-march={march}", f"-I{folder}", "-S", "-o", "/dev/null"]
    command = [*compiler.command, *flags, "-fopt-info-vec-optimized-missed", str(UNIT)]
    report = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
    missed = set(map(int, re.findall(r"step\.h:(\d+):\d+: missed: couldn't vectorize", report)))
    done = set(map(int, re.findall(r"step\.h:(\d+):\d+: optimized: .*vectorized", report)))
    lines = (folder / "step.h").read_text().splitlines()
    loops = {number for number, line in enumerate(lines, 1) if LOOP in line}
    assert len(loops) >= 5, "the kernel's loops are written in another way"
    return {lines[number - 1].strip() for number in loops if number in missed or number not in done}


@pytest.mark.parametrize("march", MACHINES[platform.machine()])
def test_loops_over_elements_are_vectorized(march):
    assert not missed_loops(SOURCE, march)


def test_a_loop_that_is_not_vectorized_is_found(tmp_path):
    """The maximum as it was once written: AdaMax then took 3 times as long in bfloat16."""
    for file in SOURCE.iterdir():
        text = file.read_text()
        if file.name == "step.h":
            old = "const Real most = a > b ? a : b;\n  return a != a ? a : most;"
            assert old in text
            text = text.replace(old, "return a > b || a != a ? a : b;")
        (tmp_path / file.name).write_text(text)
    assert missed_loops(tmp_path, MACHINES[platform.machine()][0])
