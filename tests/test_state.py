"""State in host memory is written there: what `load_state` and the acceptance matrix set."""

from types import SimpleNamespace

import numpy as np
import pytest
from mindspore.ops import operations as P
from running import make_parameters, snapshot

import ms_adam
from ms_adam import state
from ms_adam.lab.studies.matrix import cells

SHAPES = ((2, 3), (4,))
NAMES = {f"{prefix}.layer{i}.weight" for prefix in ("moment1", "moment2") for i in range(2)}


@pytest.fixture
def assigned(monkeypatch):
    """The names and devices of all Parameters that are written on a device by choice."""
    written = []

    class Assign:
        def __init__(self):
            self.operator, self.device = P.Assign(), None

        def set_device(self, device):
            self.operator.set_device(device)
            self.device = device
            return self

        def __call__(self, parameter, value):
            written.append((parameter.name, self.device))
            return self.operator(parameter, value)

    monkeypatch.setattr(state, "P", SimpleNamespace(Assign=Assign))
    return written


def offloaded(**options):
    """An optimizer as `use_offload=True` makes it on another device than the CPU."""
    optimizer = ms_adam.Adam(
        make_parameters(SHAPES, "float16"), backend="composite", master_weights=True, **options
    )
    optimizer.execution = optimizer.execution._replace(on_host=True)
    return optimizer


def whole_state():
    values = {name: np.full(SHAPES[int(name.split(".")[1][-1])], 0.5, np.float32) for name in NAMES}
    masters = {
        f"master_weight.layer{i}.weight": np.full(shape, 0.25, np.float32)
        for i, shape in enumerate(SHAPES)
    }
    return {**values, **masters, "global_step": np.array([3], np.int32)}


def test_load_state_writes_moments_on_the_host_and_nothing_else(mode, assigned):
    optimizer = offloaded()
    ms_adam.load_state(optimizer, whole_state())
    assert set(assigned) == {(name, "CPU") for name in NAMES} and len(assigned) == len(NAMES)
    now = snapshot(optimizer)
    assert all(np.all(moment == 0.5) for moment in now.moment1 + now.moment2)
    assert all(np.all(weight == 0.25) for weight in now.weights)
    assert int(optimizer.global_step) == 3


def test_the_matrix_sets_them_there_too(assigned):
    optimizer = offloaded()
    cells.put(optimizer, snapshot(optimizer), 2)
    assert set(assigned) == {(name, "CPU") for name in NAMES}


def test_state_on_the_device_is_written_there(assigned):
    optimizer = ms_adam.Adam(
        make_parameters(SHAPES, "float16"),
        backend="composite",
        master_weights=True,
        use_offload=True,
    )
    assert not optimizer.execution.on_host  # the CPU is the host
    ms_adam.load_state(optimizer, whole_state())
    assert not assigned and int(optimizer.global_step) == 3
