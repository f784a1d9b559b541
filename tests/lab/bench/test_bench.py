"""The benchmark: cases of the right size, fair turns, right ratios, clear refusals."""

import ctypes
import json
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from ms_adam import reference
from ms_adam.backends import toolchain
from ms_adam.lab.bench import cases, contenders, runner, tables
from ms_adam.lab.errors import UserError
from ms_adam.lab.report.studies import bench as plots


@pytest.fixture
def invoke(invoke):
    return lambda *arguments: invoke("bench", *arguments)


@pytest.mark.parametrize(
    "name, parameters, elements",
    [
        ("ResNet-50", 161, 25_557_032),  # torchvision.models.resnet50
        ("BERT-base", 199, 109_482_240),  # transformers.BertModel, bert-base-uncased
        ("400 x 5,000", 400, 2_000_000),
    ],
)
def test_cases_are_as_large_as_the_models(name, parameters, elements):
    case = cases.CASES[name]
    assert (len(case.shapes), case.elements) == (parameters, elements)
    assert cases.find(name.lower()) is case


def test_cases_are_found_by_size():
    assert cases.find("2000x200") == cases.CASES["2,000 x 200"]
    for name in ("resnet", "0x5", "3x", "3x-1", ""):
        with pytest.raises(UserError, match="there is no case .*BERT-base.*COUNTxSIZE"):
            cases.find(name)


def test_the_traffic_is_three_streams_written_and_one_read():
    source = contenders.Path(contenders.__file__).with_name("memory_limit.cc")
    library = ctypes.CDLL(str(toolchain.build(source)))
    for size, threads in ((0, 2), (1, 2), (1001, 1), (1001, 3)):
        gradient, *written = (np.arange(size, dtype=np.float32) + k for k in range(4))
        addresses = (ctypes.c_void_p(a.ctypes.data) for a in (gradient, *written))
        library.MsAdamTraffic(ctypes.c_int64(size), threads, *addresses)
        assert (gradient == np.arange(size)).all()
        for k, stream in enumerate(written, 1):
            assert (stream == 2 * np.arange(size) + k).all()


def row(case, contender, rounds, **values):
    times = [ms for turn in rounds for ms in turn]
    what = dict(case=case, contender=contender, parameters=2, elements=8, state_on="CPU")
    took = dict(step_ms=np.median(times), step_ms_10=min(times), step_ms_90=max(times), drift=1.0)
    costs = dict(compile_s=1.0, first_s=1.5, peak_bytes=80, state_bytes=64)
    return {**what, **took, **costs, "rounds_ms": rounds, **values}


def test_ratios_are_taken_round_by_round():
    """A machine that is ten times slower in the second round changes no ratio."""
    results = [
        row("c", "fused", [[1.0, 10.0]], compile_s=1.0),
        row("c", "nn.Adam", [[2.0, 20.0]], compile_s=4.0),
    ]
    assert runner.ratio(results, "c", "fused", "nn.Adam") == 0.5
    assert runner.ratio(results, "c", "fused", "nn.Adam", "compile_s") == 0.25
    assert runner.ratio(results, "c", "fused", "torch fused") is None
    header, rows = tables.ratio_rows(results)
    assert header == ["c"]
    assert ("default state to nn.Adam", "0.50") in rows
    assert ("compile time, default state to nn.Adam", "0.25") in rows
    assert not any("torch" in title for title, _ in rows)
    of_all = {name for _, quotient, *_ in tables.RATIOS for name in quotient.split(" / ")}
    assert of_all <= set(contenders.CONTENDERS)


def test_a_ratio_of_a_tail_has_its_limit_beside_it():
    many, other = cases.TAIL[0].name, "3 x 7"
    results = [
        row(case, name, [[ms]])
        for case in (many, other)
        for name, ms in (("tail", 1.0), ("nn.Adam, tail", 20.0))
    ]
    header, rows = tables.ratio_rows(results)
    assert header == [many, other]
    assert ("whole tail to MindSpore's", "0.05 (<= 0.08)", "0.05") in rows


def test_rows_are_sorted_and_say_bytes_for_each_element():
    results = [row("c", "nn.Adam", [[2.0]]), row("c", "fused", [[1.0]])]
    first, second = (dict(zip(tables.COLUMNS, it)) for it in tables.case_rows(results, "c"))
    assert first["contender"] == "fused" and second["contender"] == "nn.Adam"
    assert (first["peak B"], first["state B"], first["on"]) == ("10.0", "8.0", "CPU")


def test_who_cannot_take_part_is_said():
    many = cases.uniform(1_000, 1)
    names = ("fused", "composite", "nn.Adam")
    assert contenders.line_up(many, names)[0] == ("fused", "nn.Adam")
    assert "composite" in contenders.line_up(many, names)[1][0]
    assert contenders.line_up(many, names, everything=True) == (names, [])
    enough_for_two = 2 * contenders.BYTES_PER_ELEMENT * 1_000
    chosen, reasons = contenders.line_up(many, names, True, memory=enough_for_two)
    assert chosen == names[:2] and "memory is too small" in reasons[0]


def test_rows_are_for_those_who_are_lazy():
    table = cases.CASES["4,096 rows of 1,000,000 x 64"]
    everybody = tuple(contenders.CONTENDERS)
    lazy = contenders.line_up(table, everybody, memory=1e15)[0]
    assert set(lazy) == {"nn.Adam", "fused", "memory limit", "fused, lazy", "nn.Adam, lazy"}
    dense = contenders.line_up(cases.uniform(4, 7), everybody, everything=True, memory=1e15)[0]
    assert not any("lazy" in name for name in dense)


def test_both_tails_do_the_same():
    """They clip alike, and skip where a gradient is not finite.

    nn.Adam has the other epsilon: in the first step eps / sqrt(1 - beta2) beside |g|, and less
    later. An update of at most a learning rate is off by no more than the quotient of the two.
    """
    case, steps, found = cases.uniform(3, 40), 3, []
    gradients = [100 * gradient for _, gradient in contenders.values(case)]
    clipped = reference.clip_by_global_norm(gradients, contenders.MAX_GRAD_NORM)
    assert np.abs(clipped[0]).max() < 0.5 * np.abs(gradients[0]).max()
    for name in ("tail, EMA", "nn.Adam, tail, EMA"):
        built = contenders.CONTENDERS[name].build(case)
        parameters = built.cell.gradients
        for parameter, gradient in zip(parameters, gradients):
            parameter.set_data(Tensor(gradient))
        for _ in range(steps):
            built.step()
        found.append(before := built.optimizer.state())
        parameters[-1].set_data(Tensor(np.full(40, np.inf), ms.float32))
        built.step()
        np.testing.assert_equal(built.optimizer.state(), before, name)
        assert built.state_bytes() >= 12 * case.elements
    ours, theirs = found
    for i, (weight, _) in enumerate(contenders.values(case)):
        # Norm, factor, product, and three roundings in each step of a moment.
        np.testing.assert_allclose(ours["moment1"][i], theirs["moment1"][i], rtol=20 * 2.0**-24)
        assert np.abs(ours["parameter"][i] - weight).max() > 0.9 * contenders.LEARNING_RATE
        quotient = 1e-8 / np.sqrt(1 - 0.999) / np.abs(clipped[i]).min()
        rounding = 4 * steps * 2.0**-24 * np.abs(weight).max()
        bound = steps * contenders.LEARNING_RATE * quotient + rounding
        assert np.abs(ours["parameter"][i] - theirs["parameter"][i]).max() <= bound


@pytest.mark.parametrize(
    "name, imported",
    [
        ("torch, tail", ["torch", "torch.optim"]),
        ("bitsandbytes, 8 bits", ["torch", "bitsandbytes.optim"]),
        ("nn.Adam", ["mindspore", "mindspore.nn"]),
        ("memory limit", ["mindspore"]),
    ],
)
def test_packages_are_imported_before_memory_is_measured(monkeypatch, name, imported):
    class Measured(Exception):
        pass

    def memory_of(*_):
        raise Measured

    seen, events = [], SimpleNamespace(send=lambda _: None, requests=lambda: iter([[[[3]], 0]]))
    monkeypatch.setattr(runner.importlib, "import_module", seen.append)
    monkeypatch.setattr(runner, "memory_of", memory_of)
    with pytest.raises(Measured):
        runner.work({"contender": name}, events)
    assert seen == imported


def test_a_contender_that_fails_is_named():
    refused = pytest.raises(UserError, match="nobody cannot be timed: KeyError: 'nobody'")
    with runner.Lane("nobody") as lane, refused:
        lane.ready()


def test_plots_have_a_line_for_each_contender():
    results = [
        row(case.name, name, [[1.0, 2.0]], parameters=len(case.shapes), elements=case.elements)
        for case in cases.BY_NUMBER
        for name in contenders.DRAWN
    ]

    def picture(*left_out):
        rows = [row for row in results if row["contender"] not in left_out]
        return plots.cost_plot(rows, lambda row: row["parameters"], "title", "label")

    assert picture().startswith(b"\x89PNG")
    assert len({picture(), *map(picture, contenders.DRAWN)}) == 6


def test_a_run_writes_and_prints_everything(invoke, tmp_path):
    names = ["fused", "nn.Adam", "memory limit"]
    chosen = [word for name in names for word in ("--contender", name)]
    more = ("--rounds", 2, "--passes", 2, "--out", tmp_path, "--json", tmp_path / "copy.json")
    result = invoke("--case", "3x7", *chosen, *more, "--markdown")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "bench.json").read_text())
    assert json.loads((tmp_path / "copy.json").read_text()) == content
    assert content["schema"] == 1 and content["environment"]["mindspore"]
    assert [found["contender"] for found in content["results"]] == names
    for found in content["results"]:
        assert [len(turns) for turns in found["rounds_ms"]] == [2, 2]
        assert found["step_ms_10"] <= found["step_ms"] <= found["step_ms_90"]
        assert 0 <= found["compile_s"] < found["first_s"]
        assert (found["compile_s"] > 0.01) == (found["contender"] != "memory limit")
        # two float32 moments for each element, a step count, powers and a learning rate
        assert 8 * 21 <= found["state_bytes"] <= 8 * 21 + 32
    assert {found["state_on"] for found in content["results"]} == {"CPU"}
    assert "3 x 7: 3 parameters, 21 elements" in result.output
    assert "| compile time, default state to nn.Adam |" in result.output


def test_rows_of_a_table_are_timed(monkeypatch):
    monkeypatch.setattr(contenders, "memory_of", lambda *_: 1e15)
    table = cases.Case("rows", ((50_000, 16),), rows=5_000)
    content = runner.bench([(table, ("fused, lazy", "nn.Adam, lazy"))], 1, 1, lambda *_: None)
    assert len(content["results"]) == 2
    assert runner.ratio(content["results"], "rows", "fused, lazy", "nn.Adam, lazy") > 0


@pytest.fixture
def seen(monkeypatch):
    """Lets a run end at once; the cases and contenders that it was given."""
    seen = []

    def stand_in(work, rounds, passes, progress):
        seen.extend(work)
        rows = [row(case.name, name, [[1.0]]) for case, names in work for name in names]
        return {"results": rows, "left_out": []}

    monkeypatch.setattr(runner, "bench", stand_in)
    return seen


def test_the_tail_has_cases_and_contenders_of_its_own(invoke, tmp_path, monkeypatch, seen):
    monkeypatch.setattr(contenders, "memory_of", lambda *_: 1e15)
    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    result = invoke("--tail", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert [case for case, _ in seen] == list(cases.TAIL)
    here = [name for name in contenders.TAILS if not name.startswith("torch")]
    assert all(list(names) == here for _, names in seen)
    assert "left out: torch, tail: torch is not installed" in result.output
    assert result.output.index("ratio") < result.output.index("2,000,000 elements")
    assert not set(contenders.TAILS) & set(contenders.COMPILED) - {"nn.Adam", "fused"}
    both = invoke("--tail", "--narrow", "--out", tmp_path)
    assert both.exit_code == 2 and "give one of them" in both.output


@pytest.mark.parametrize(
    "names, drawn", [(["fused", "composite"], {("fused",)}), (["composite"], set())]
)
def test_the_curves_are_of_the_contenders_that_are_named(invoke, tmp_path, seen, names, drawn):
    chosen = [word for name in names for word in ("--contender", name)]
    assert invoke(*chosen, "--out", tmp_path).exit_code == 0
    along = [one for one in seen if one[0] in (*cases.BY_NUMBER, *cases.BY_SIZE)]
    assert {of for _, of in along} == drawn and len(set(along)) == len(along)
    assert (tmp_path / "by_size.png").exists() == bool(drawn)


def test_narrow_state_is_as_small_as_it_says(invoke, tmp_path, monkeypatch):
    """The rest of the state are a few numbers, and an exponent for 256 elements at most."""
    wanted = {"fused": 8, "bfloat16 state": 4, "int8 state, split, called": 4, "split, called": 10}
    monkeypatch.setattr(contenders, "NARROWS", ("fused", "called, PyNative", *wanted))
    monkeypatch.setattr(cases, "NARROW", (cases.uniform(2, 2_000),))
    names = [word for name in wanted for word in ("--contender", name)]
    more = ("--rounds", 1, "--passes", 1, "--out", tmp_path)
    result = invoke("--narrow", *names, *more)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "bench.json").read_text())["results"]
    for row in found:
        least = wanted[row["contender"]] * row["elements"]
        exponents = 2 * 2 * 8 if "int8" in row["contender"] else 0
        assert least + exponents <= row["state_bytes"] <= least + exponents + 64
    assert "2 x 2,000" in result.output and "; 4.0 B" in result.output


def test_a_package_that_refuses_is_left_out_with_its_reason(monkeypatch):
    built, foreign = runner.Lane.build, contenders.CONTENDERS["bitsandbytes, 8 bits"]
    monkeypatch.setitem(runner.CONTENDERS, "fused", foreign)

    def build(lane, case):
        if lane.name == "fused":
            raise UserError("fused cannot be timed: no CPU")
        built(lane, case)

    monkeypatch.setattr(runner.Lane, "build", build)
    content = runner.bench([(cases.uniform(1, 9), ("memory limit", "fused"))], 1, 1, print)
    assert [found["contender"] for found in content["results"]] == ["memory limit"]
    assert content["left_out"] == ["1 x 9: fused cannot be timed: no CPU"]


@pytest.mark.parametrize(
    "option, name, message",
    [
        ("--case", "resnet", "there is no case 'resnet'"),
        ("--contender", "adam", "there is no contender 'adam'; there are 'nn.Adam'"),
    ],
)
def test_wrong_names_are_one_message(invoke, tmp_path, option, name, message):
    result = invoke(option, name, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
