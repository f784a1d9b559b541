"""docs/devices.md agrees with the code, with MindSpore's wheel and with its commands."""

import collections
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import typer
from mindspore import Parameter, Tensor

import ms_adam
from ms_adam import backends
from ms_adam.lab.studies.matrix.devices import why_not
from ms_adam.state import weight_kinds
from tests.documented_operators import BUILDERS, EVERYWHERE, EXCHANGE, ON_THE_CPU_ALONE, OPERATORS

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "devices.md").read_text()


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


def rows(text):
    """Returns the cells of the only table in a text, without its head."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def commands(text):
    lines = re.sub(r"\\\n +", "", text)
    return re.findall(r"^    (\S.*)$", lines, re.MULTILINE)


ANSWERS = re.findall(r"^> (.*)$", PAGE, re.MULTILINE)


# --- which backend runs -------------------------------------------------------------------------


def parameters(dtype):
    return [Parameter(Tensor(np.ones((2, 3)), getattr(ms, dtype)), name="weight")]


def chosen(dtype, options, device_target):
    """Returns the choice of backend="auto"; the optimizer itself is made on the CPU."""
    adam = ms_adam.Adam(parameters(dtype), **options)
    on_host = options.get("use_offload", False) and device_target != "CPU"
    kinds = weight_kinds(adam.parameters, options.get("master_weights", False))
    execution = adam.execution._replace(on_host=on_host, backend="auto")
    try:
        return backends.choose("Adam", adam.formula, execution, kinds, device_target)
    except ValueError as refusal:
        assert f"    ValueError: {refusal}\n" in section("Which backend runs")
        return "refused"


@pytest.mark.parametrize("row", rows(section("Which backend runs")), ids="-".join)
def test_the_backend_is_the_one_that_the_table_names(row):
    dtype, options, on_cpu, on_gpu, on_ascend = row
    options = eval(f"dict({options.strip('`')})")
    assert ms_adam.Adam(parameters(dtype), **options).backend == on_cpu
    assert chosen(dtype, options, "CPU") == on_cpu
    assert chosen(dtype, options, "GPU") == on_gpu
    assert chosen(dtype, options, "Ascend") == on_ascend


def plugin():
    """The bytes of MindSpore's plugin for GPUs."""
    return (Path(ms.__file__).parent / "lib" / "plugin" / "libmindspore_gpu.so.11.6").read_bytes()


def test_the_gpu_plugin_has_no_bfloat16_kernel():
    """A kernel's symbol contains its dtype, as for float16; bfloat16 appears in constants only."""
    content = plugin()
    assert len(set(re.findall(rb"_Z\w*6__half\w*", content))) > 100
    found = set(re.findall(rb"\w*bfloat16\w*", content, re.IGNORECASE))
    assert {name for name in found if name.startswith(b"_Z")} == {
        b"_ZN9mindspore9kBFloat16E",
        b"_ZGVN9mindspore9kBFloat16E",
    }
    assert b"bfloat16" in found and len(found) == 3


def test_without_a_compiler_the_cpu_takes_what_ascend_takes(monkeypatch):
    monkeypatch.setattr(backends.Fused, "obstacle", staticmethod(lambda *_: "no compiler"))
    for dtype, options, _, _, on_ascend in rows(section("Which backend runs")):
        options = eval(f"dict({options.strip('`')})")
        if not options.get("use_offload"):  # the CPU is the host
            assert chosen(dtype, options, "CPU") == on_ascend


def test_flat_state_without_the_kernel(monkeypatch):
    monkeypatch.setattr(
        backends.Fused,
        "obstacle",
        staticmethod(lambda formula, execution, weights, device: f"not for {device}"),
    )
    assert ms_adam.Adam(parameters("float32"), flat_state=True).backend == "composite"
    says = "no backend can run here: 'fused': .*; 'composite': rows that are skipped"
    with pytest.raises(ValueError, match=says):
        ms_adam.Adam(parameters("float32"), flat_state=True, use_lazy=True)


# --- commands and their answers -------------------------------------------------------------------


def options_of(command):
    """Parses a command line with the parser of the command itself."""
    from ms_adam.lab.cli import app

    name, *arguments = shlex.split(command)[1:]
    chosen_command = typer.main.get_command(app).commands[name]
    return name, chosen_command.make_context(name, arguments).params


def test_the_commands_are_commands():
    from ms_adam.lab.bench.contenders import check_names

    parsed = [options_of(command) for command in commands(section("Commands for another device"))]
    assert [name for name, _ in parsed] == ["validate", "validate", "identify", "bench"]
    assert [parsed[i][1]["device_target"].value for i in (0, 1)] == ["GPU", "Ascend"]
    assert len(check_names(parsed[3][1]["contender"])) == 4
    with pytest.raises(Exception, match="No such option"):
        options_of("ms-adam identify ms_adam.Adam --device-target GPU")


def test_a_gpu_without_cuda_home_is_answered_as_the_page_says(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_HOME"}
    main = "from ms_adam.lab.cli import main; main()"
    options = ["--device-target", "GPU", "--only", "locking float32 graph", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", main, "validate", *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3
    assert done.stdout.startswith("not available on this device")
    assert ANSWERS[0] in done.stdout


_REFUSAL = (
    "RuntimeError: Unsupported device target {0}. This process only supports one of the "
    "['CPU'].\n- Device load error message:\n"
)
_FAILED = (
    "Load dynamic library: {} failed. {}: cannot open shared object file: No such file or "
    "directory\n"
)
_NO_ASCEND = _FAILED.format("libmindspore_ascend.so.2", "libge_runner.so")
_NO_CUBLAS = _FAILED.format("libmindspore_gpu.so.11.6", "libcublas.so.11")


def test_answers_name_what_is_missing():
    """On the errors of MindSpore 2.10.0, with CUDA_HOME and without."""
    gpu, ascend = _REFUSAL.format("GPU"), _REFUSAL.format("Ascend")
    cuda = {"CUDA_HOME": "/usr/local/cuda"}
    assert why_not("GPU", gpu + _NO_ASCEND, {}) == ANSWERS[0]
    assert why_not("GPU", gpu + _NO_ASCEND + _NO_CUBLAS, cuda) == ANSWERS[1]
    assert why_not("Ascend", ascend + _NO_CUBLAS + _NO_ASCEND, cuda) == ANSWERS[2]
    assert len(ANSWERS) == 3
    assert "/usr/local/cuda/bin/nvcc --version" in why_not("GPU", gpu + _NO_ASCEND, cuda)
    assert "its wheel has no libmindspore_ascend" in why_not("Ascend", ascend, {})


def test_what_is_not_a_refusal_has_no_advice():
    """The error of a device that exists and fails is passed on unchanged."""
    assert why_not("GPU", "RuntimeError: out of memory", {}) is None
    assert why_not("CPU", _REFUSAL.format("CPU"), {}) is None


# --- what a GPU needs ---------------------------------------------------------------------------


def test_the_plugin_needs_the_libraries_of_the_table():
    """The plugin names exactly these libraries of CUDA and of the driver."""
    strings = set(re.findall(rb"\0(lib(?:cu|nv)\w*\.so\.[\d.]+)(?=\0)", plugin()))
    ours = {b"libcuda_ops.so.11"}  # is in the wheel
    assert {name.encode() for name in (row[0].strip("`") for row in rows(section("A GPU")))} == (
        strings - ours
    )


def test_the_installation_has_the_packages_of_the_table():
    install = next(line for line in commands(section("A GPU")) if line.startswith("pip install "))
    table = [(package, version) for _, package, version in rows(section("A GPU")) if version]
    assert [f"{package.strip('`')}=={version}" for package, version in table] == (
        install.split()[2:]
    )


def test_the_stand_in_answers_with_a_version(tmp_path):
    lines = [
        line for line in commands(section("A GPU")) if line.startswith(("mkdir", "printf", "chmod"))
    ]
    assert len(lines) == 3
    subprocess.run(["sh", "-ec", "\n".join(lines)], cwd=tmp_path, check=True)
    answer = subprocess.run(
        [tmp_path / "cuda-11/bin/nvcc", "--version"], check=True, capture_output=True, text=True
    ).stdout
    assert answer == "Cuda compilation tools, release 11.6, V11.6.124\n"


# --- operators ----------------------------------------------------------------------------------


def test_the_operators_are_those_of_the_table():
    """The page names operators of a compiled step, not functions of `mindspore.ops`."""
    paragraphs = section("Operators").strip().split("\n\n")
    named = re.findall(r"\w+", paragraphs[1])
    classes = {name for name in OPERATORS if name[0].isupper()} - {*ON_THE_CPU_ALONE, *EXCHANGE}
    assert named == sorted(classes, key=str.lower)
    assert all(set(OPERATORS[name].platforms) == set(EVERYWHERE) for name in named)
    assert not set(named) & set(BUILDERS)
    assert paragraphs[2].startswith("and, on the CPU only, InplaceCopy")
    everywhere = [name for name in EXCHANGE if set(OPERATORS[name].platforms) == set(EVERYWHERE)]
    assert paragraphs[3].startswith(
        f"`shard_state=True` adds {', '.join(everywhere)}, also documented for all three, and the "
        "messages "
        f"{' and '.join(name for name in EXCHANGE if name not in everywhere)}"
    )


def test_devices_that_were_not_run_are_called_so():
    states = {row[0]: row[1] for row in rows(PAGE.split("## ")[0])}
    assert states["GPU"].startswith("run on an H100")
    assert states["Ascend"] == "not yet run on Ascend"


def test_the_table_of_the_h100_is_its_validate_json():
    """Its numbers are the counts of results by backend, dtype, counterpart and status."""
    content = json.loads(gzip.decompress((DOCS / "gpu" / "validate.json.gz").read_bytes()))
    assert content["environment"]["device_target"] == "GPU" and content["complete"]
    counts = collections.Counter(
        (row["backend"], row["dtype"], row["against"], row["status"]) for row in content["results"]
    )
    assert not [key for key in counts if key[3] == "fell short"]
    told = rows(section("An H100"))[:12]
    assert {tuple(row[:2]) for row in told} == {key[:2] for key in counts}
    for backend, dtype, *cells in told:
        found = [
            counts[backend, dtype, against, status]
            for against, status in (
                ("reference", "held"),
                ("nn.Adam", "held"),
                ("reference", "not offered"),
                ("reference", "not available on this device"),
            )
        ]
        agreed = [f"{number} of {number}" if number else "" for number in found[:2]]
        assert cells == agreed + [str(number or "") for number in found[2:]], (backend, dtype)
