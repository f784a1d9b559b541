"""A dump of msProbe as a side, from files written in its layout."""

import json

import numpy as np
import pytest
from lab.run.changed_configs import refusal
from lab.studies.compare.test_compare import load_comparison
from lab.studies.compare.test_compare_pairs import MAKE, here, side

from ms_adam.lab.errors import UserError
from ms_adam.lab.studies.compare import judge, run
from ms_adam.lab.studies.compare.config import Comparison
from ms_adam.lab.studies.compare.msprobe import write_record
from ms_adam.lab.studies.compare.record import Record

STEPS = 3
# A parameter's name in the network, and the Cell that has it in the dump.
CELLS = {
    "table": ("Cell.net.Network", "table"),
    "hidden.weight": ("Cell.net.hidden.Dense", "weight"),
    "hidden.bias": ("Cell.net.hidden.Dense", "bias"),
    "last.weight": ("Cell.net.last.Dense", "weight"),
    "last.bias": ("Cell.net.last.Dense", "bias"),
}


def compared(folder, **sides):
    comparison = {
        "title": "dump",
        "factory": MAKE,
        "training": {"steps": STEPS, "batch_size": 8, "seed": 1},
        "sides": {"ours": side(), **sides},
        "keep_records": True,
    }
    content = run.compare(Comparison.model_validate(comparison), folder, lambda *_: None, here)
    return content["results"][0]["pairs"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The record of a training."""
    out = tmp_path_factory.mktemp("trained")
    compared(out, again=side(flat_state=True))
    return Record(out / "records" / "side1")


def write(dump, record, moments=False, old=False, change=lambda step, quantity, arrays: arrays):
    """Writes a record as msProbe 26.2.0 dumps it; `old`: as versions before 26.0."""
    for step in range(STEPS + 1):
        rank = dump / f"step{step}" / "proc1234"
        tensors = rank / "dump_tensor_data"
        tensors.mkdir(parents=True)
        dumped, saved = {}, {}

        def entry(file, array):
            np.save(tensors / file, array)  # noqa: B023
            described = {"type": "mindspore.Tensor", "dtype": "Float32", "shape": list(array.shape)}
            return {**described, "Max": float(array.max()), "data_name": file}

        # After the last step nothing but the forward pass has to be dumped.
        gradients = record.read(min(step, STEPS - 1), "gradient")
        before = {q: record.before(step, q) for q in ("parameter", "moment1", "moment2")}
        before = {q: change(step, q, arrays) for q, arrays in before.items()}
        for i, (name, (cell, attribute)) in enumerate(CELLS.items()):
            call = f"{cell}.forward.0"
            file = f"{call}.parameters.{attribute}.npy"
            described = dumped.setdefault(call, {"input_args": [], "parameters": {}})
            described["parameters"][attribute] = entry(file, before["parameter"][i])
            key = f"{cell}.parameters_grad" + ("" if old else ".0")
            described = entry(f"{key}.{attribute}.npy", gradients[i])
            dumped.setdefault(key, {})[attribute] = [described]
            for quantity, array in (("moment1", "exp_avg"), ("moment2", "exp_avg_sq")):
                key = f"{array}.{name}.0.debug"
                saved[key] = entry(f"{key}.npy", before[quantity][i])
        content = {"task": "tensor", "level": "L0", "framework": "mindspore"}
        files = {"dump.json": dumped, **({"debug.json": saved} if moments else {})}
        for file, data in files.items():
            (rank / file).write_text(json.dumps({**content, "data": data}))
    return dump


def update_lost(step, quantity, arrays):
    """The bias of the last layer stays as it was in step 2."""
    if step >= 2 and quantity == "parameter":
        arrays[4] = arrays[4] + np.float32(1e-4)
    return arrays


def test_a_dump_is_a_side(trained, tmp_path):
    record = trained
    dumps = {
        "of old": write(tmp_path / "2", record, old=True),
        "with moments": write(tmp_path / "3", record, moments=True),
        "lost": write(tmp_path / "4", record, change=update_lost),
    }
    given = {name: {"dump": str(path)} for name, path in dumps.items()}
    given["scaled"] = {"dump": str(dumps["of old"]), "loss_scale": 2.0}
    pairs = {pair["sides"][1]: pair for pair in compared(tmp_path / "out", **given)}
    for name in ("of old", "with moments"):
        assert pairs[name]["status"] in (judge.EQUAL, judge.HELD), pairs[name]["sentence"]
    assert "moment2" in pairs["with moments"]["checks"]["with moments"]
    assert "moment2" not in pairs["of old"]["checks"]["of old"]
    found = {name: pairs[name]["first"] for name in ("lost", "scaled")}
    assert (found["lost"]["step"], found["lost"]["parameter"]) == (2, "last.bias")
    assert (found["scaled"]["step"], found["scaled"]["quantity"]) == (1, "gradient")
    assert pairs["scaled"]["cause"] in (judge.NETWORK, judge.BOTH)


def rewritten(dump, change):
    path = dump / "step0" / "proc1234" / "dump.json"
    content = json.loads(path.read_text())
    change(content["data"])
    path.write_text(json.dumps(content))


def without_a_bias(data):
    del data["Cell.net.last.Dense.parameters_grad.0"]["bias"]


def without_gradients(data):
    for key in [key for key in data if "parameters_grad" in key]:
        del data[key]


def statistics(data):
    for tensor in data["Cell.net.last.Dense.forward.0"]["parameters"].values():
        del tensor["data_name"]


@pytest.mark.parametrize(
    "change, message",
    [
        (without_a_bias, "has no gradient of last.bias"),
        (without_gradients, "step0 holds no gradient"),
        (statistics, r'has statistics only \(Max\).*"task": "tensor" in the config.json'),
        (lambda data: data.clear(), "holds no parameter"),
    ],
)
def test_a_dump_that_lacks_something_is_refused_in_words(trained, tmp_path, change, message):
    dump = write(tmp_path / "dump", trained)
    rewritten(dump, change)
    with pytest.raises(UserError, match=message):
        write_record(dump, tmp_path / "record", trained, 1.0, 10)


def statistics_of_pynative(folder, names):
    tensor = {"type": "mindspore.Tensor", "dtype": "Float32", "shape": [2], **names}
    data = {"Cell.net.Max.Dense.forward.0": {"parameters": {"weight": tensor}}}
    (folder / "dump.json").write_text(json.dumps({"task": "statistics", "data": data}))


def statistics_of_a_graph(folder, names):
    columns = ["Op Type", "Op Name", "Shape", *names]
    (folder / "statistic.csv").write_text(",".join(columns) + "\nCell,Max,2,1,2,3,4\n")


@pytest.mark.parametrize(
    "write, names, told",
    [
        (
            statistics_of_pynative,
            {"Max": 1.0, "Min": 0.0, "Mean": 0.5, "Norm": 1.0},
            "dump.json has statistics only (Max, Min, Mean, Norm). Tensors with equal",
        ),
        (statistics_of_pynative, {"md5": "0a1b"}, "dump.json has statistics only (md5)."),
        (
            statistics_of_a_graph,
            ["Max Value", "Min Value", "Avg Value", "L2Norm Value"],
            "statistic.csv has statistics only (Max, Min, Avg, L2Norm).",
        ),
    ],
)
def test_statistics_are_refused_with_the_setting_that_writes_tensors(
    trained, tmp_path, write, names, told
):
    folder = tmp_path / "step0" / "rank0"  # one folder is too few, which is not what is told
    folder.mkdir(parents=True)
    write(folder, names)
    with pytest.raises(UserError) as caught:
        write_record(tmp_path, tmp_path / "record", trained, 1.0, 10)
    assert told in str(caught.value)
    assert '"task": "tensor" in the config.json of msProbe' in str(caught.value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("other", "has 3 folders step<n>; 3 steps need one more"),
        ("step5", "lacks some of the steps 0 to 5"),
    ],
)
def test_too_few_steps_are_refused(trained, tmp_path, name, message):
    dump = write(tmp_path / "dump", trained)
    (dump / f"step{STEPS}").rename(dump / name)
    with pytest.raises(UserError, match=message):
        write_record(dump, tmp_path / "record", trained, 1.0, 10)


def test_the_folder_that_lacks_a_moment_is_named(trained, tmp_path):
    dump = write(tmp_path / "dump", trained, moments=True)
    (dump / "step2" / "proc1234" / "debug.json").unlink()
    with pytest.raises(UserError, match="step2 has no moment1, but step0 has"):
        write_record(dump, tmp_path / "record", trained, 1.0, 10)


@pytest.mark.parametrize(
    "sides, message",
    [
        ("a: {dump: d}\n  b: {mode: graph, optimizer: x.Y}", "'a' is a dump, which has no network"),
        ("b: {mode: graph, optimizer: x.Y}\n  a: {dump: d, mode: graph}", "no other key"),
        ("b: {mode: graph, optimizer: x.Y}\n  a: {dump: d, ranks: 2}", "no other key"),
        ("b: {mode: graph}\n  a: {dump: d}", "'optimizer' is missing"),
        ("b: {mode: graph, optimizer: x.Y, loss_scale: 2.0}\n  a: {dump: d}", "is of a 'dump'"),
    ],
)
def test_a_wrong_config_is_refused_in_words(tmp_path, sides, message):
    content = (
        "title: x\nfactory: a:b\ntraining: {steps: 1, batch_size: 1, seed: 0}\n"
        f"sides:\n  {sides}\n"
    )
    assert message in refusal(tmp_path, content, load_comparison)
