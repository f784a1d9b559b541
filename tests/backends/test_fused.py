"""The number of threads, and the reasons for which the kernel cannot run."""

import pytest
from mindspore import Parameter, Tensor

import ms_adam
from ms_adam.backends import fused, toolchain


@pytest.mark.parametrize(
    "cores, bound, environment, expected",
    [
        (8, 8, {}, 8),
        (8, 8, {"OMP_NUM_THREADS": "3"}, 3),
        (8, 8, {"OMP_NUM_THREADS": "16,2"}, 16),
        (8, 8, {"OMP_NUM_THREADS": "many"}, 8),
        (8, 8, {"MS_WORKER_NUM": "2"}, 4),  # msrun
        (8, 8, {"MS_WORKER_NUM": "16"}, 1),
        (8, 8, {"MS_WORKER_NUM": ""}, 8),
        (8, 8, {"MS_WORKER_NUM": "0"}, 8),
        # mpirun, four machines
        (8, 8, {"MS_WORKER_NUM": "16", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 2),
        (8, 2, {"MS_WORKER_NUM": "4"}, 2),  # msrun --bind_core
        (8, 2, {}, 2),  # taskset
    ],
)
def test_thread_count(monkeypatch, cores, bound, environment, expected):
    for name in ("OMP_NUM_THREADS", "MS_WORKER_NUM", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(fused.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(fused.os, "sched_getaffinity", lambda pid: set(range(bound)))
    assert fused.thread_count() == expected


@pytest.fixture
def fresh(monkeypatch):
    """Forgets the answer about the library before and after a test."""
    fused.kernel_library.cache_clear()
    yield monkeypatch
    fused.kernel_library.cache_clear()


def obstacle(device_target="CPU"):
    optimizer = ms_adam.Adam([Parameter(Tensor([1.0]), name="w")], backend="composite")
    return fused.Fused.obstacle(optimizer.formula, optimizer.execution, (), device_target)


def test_no_obstacle(fresh):
    assert obstacle() is None


@pytest.mark.parametrize("device_target", ["GPU", "Ascend"])
def test_other_devices_are_an_obstacle(fresh, device_target):
    assert obstacle(device_target) == f"the kernel is for the CPU, not for {device_target}"


def test_no_compiler_is_an_obstacle(fresh, tmp_path):
    fresh.setenv("PATH", str(tmp_path))
    fresh.delenv("CXX", raising=False)
    assert "no C++ compiler was found; looked for $CXX (not set), c++, g++" in obstacle()


def test_a_library_that_cannot_be_loaded_is_an_obstacle(fresh, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    fresh.setattr(fused.toolchain, "build", lambda source: broken)
    assert obstacle().startswith("the kernel was built and cannot be loaded: ")


def test_a_path_that_mindspore_rejects_is_an_obstacle(fresh, tmp_path):
    fresh.setenv("MS_CUSTOM_AOT_WHITE_LIST", str(tmp_path))
    assert f"only allows kernels in {tmp_path}, and ours is " in obstacle()
    fused.kernel_library.cache_clear()
    library = toolchain.build(fused.SOURCE)
    fresh.setenv("MS_CUSTOM_AOT_WHITE_LIST", str(library.parent))
    assert obstacle() is None
    fused.kernel_library.cache_clear()
    fresh.delenv("MS_CUSTOM_AOT_WHITE_LIST")
    colon = tmp_path / "a:b"
    colon.mkdir()
    (colon / library.name).write_bytes(library.read_bytes())
    fresh.setattr(fused.toolchain, "build", lambda source: colon / library.name)
    assert "takes no kernel from a path with a colon" in obstacle()
