"""Identification: right for what is known, and never fooled by a mutant."""

import functools
import itertools
import sys
import types
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from lab.studies.identify import mutants
from mindspore import Tensor, amp

from ms_adam import reference
from ms_adam.lab.errors import UserError
from ms_adam.lab.studies.identify import (
    conformance,
    identify,
    identify_target,
    measured,
    probes,
    tables,
)
from ms_adam.lab.studies.identify.catalogue import ADAMS
from ms_adam.lab.studies.identify.driver import Driver
from ms_adam.lab.studies.identify.forms import WORDS, Form, Numbers, rounded, structures
from ms_adam.lab.studies.identify.judge import errors, judge
from ms_adam.lab.studies.identify.relatives import relatives
from ms_adam.lab.targets import describe, find

FACTORIES = "lab.studies.identify.factories"
FOUND, DECOUPLED = "found", "decoupled, times the learning rate"


@functools.cache
def known(path):
    """A target without options, identified once for all tests."""
    return identify(path)


def identified(made):
    return identify_target(describe("it", made))


def answers(identification):
    """(status, answer) by question."""
    return {f.question: (f.status, f.answer) for f in identification.findings}


# The hypotheses.

SWITCHES = ("epsilon", "bias_correction", "nesterov", "amsgrad", "decoupled")
COVERED = [
    dict(zip(SWITCHES, values))
    for values in itertools.product(("outside", "hat", "inside"), *[(False, True)] * 4)
]


@pytest.mark.parametrize("options", COVERED, ids=lambda o: "-".join(map(str, o.values())))
def test_forms_are_the_reference_where_both_speak(options):
    probe = probes.decay()
    numbers = Numbers(0.01, 0.8, 0.99, 1e-2, 0.1)
    method = reference.Adam(*numbers[:4], weight_decay=0.1, **options)
    form = Form(
        epsilon=options["epsilon"],
        corrected="both" if options["bias_correction"] else "neither",
        nesterov="shared" if options["nesterov"] else "none",
        amsgrad="before" if options["amsgrad"] else "none",
        decay="decoupled" if options["decoupled"] else "L2",
    )
    w, state, places = probe.start, method.init(probe.start), []
    for gradient in probe.gradients:
        w, state = method.step(w, gradient, state)
        places.append(w)
    # 32 steps of some ten roundings of 1.1e-16 each, of weights up to 2
    np.testing.assert_allclose(form.walk(numbers, *probe), places, rtol=0, atol=8e-14)


def test_forms_differ_on_the_probe():
    """No two hypotheses are the same: a wrong answer cannot hide behind a right one."""
    probe, numbers = probes.structure(1e-8), Numbers()
    forms = structures()
    walks = [form.walk(numbers, *probe) for form in forms]
    for (one, a), (other, b) in itertools.combinations(zip(forms, walks), 2):
        # float16 "at rest" and "float16" are two ways to the one answer
        if one.name() != other.name():
            assert errors(a, b, probe.start).max() > 1e-3, (one, other)


def test_bfloat16_is_rounded_as_mindspore_rounds():
    x = np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.linspace(-20, 20, 1000)
    wanted = Tensor(x, ms.float32).astype(ms.bfloat16).astype(ms.float32).asnumpy()
    single = x.astype(np.float32)
    np.testing.assert_array_equal(rounded(single, "bfloat16"), wanted)
    np.testing.assert_array_equal(rounded(single, "float32"), single)


def test_errors_do_not_hide_nan():
    wanted = np.array([[1.0, 1.0, np.nan, 0.0, 2.0]])
    seen = np.array([[1.0, np.nan, np.nan, 1.0, 1.0]])
    np.testing.assert_array_equal(errors(seen, wanted, np.zeros(5)), [[0, np.inf, 0, np.inf, 0.5]])


def test_what_rounding_explains_is_no_blank_cheque():
    """An update that is 1e-5 too large in float32 is seen."""
    probe, numbers = probes.structure(1e-8), Numbers()
    seen = Form().walk(numbers, *probe, dtype=np.float32)
    assert judge(Form(), seen, probe, numbers).fits
    assert not judge(Form(), seen * (1 + 1e-5), probe, numbers).fits


# Measured numbers.


@pytest.mark.parametrize(
    "made, formula, answer",
    [
        (mutants.WithNumbers, "Algorithm 1", "as given"),
        (
            mutants.Beta2InBfloat16,
            "Algorithm 1, beta2 runs as 0.99609375",
            "beta2 runs as 0.99609375; "
            "1 - beta2 runs as 0.00390625 (taken in bfloat16, rounded down)",
        ),
        (mutants.DecayHalved, "Algorithm 1", "weight_decay runs as 0.5 of what is given"),
    ],
)
def test_numbers_are_measured(made, formula, answer):
    found = identified(made)
    assert found.formula == formula
    assert found.finding("measured").answer == answer


def test_another_epsilon_is_found():
    words, eps = identified(mutants.EpsilonMoved).formula.rsplit(" ", 1)
    assert words == "no known formula (nearest: Algorithm 1); eps runs as"
    assert abs(float(eps) / 1.00001e-8 - 1.0) < measured.NEAR


def test_a_moment_that_never_falls_is_found():
    """bfloat16 rounded to nearest keeps v where the gradient is 0, and its gain is off."""
    found = identified(mutants.Moment2InBfloat16)
    assert found.status == "no known formula"
    assert "the moment of beta2 never falls where the gradient is 0" in found.formula


@pytest.mark.parametrize(
    "state_dtype, kept",
    [("bfloat16", "bfloat16, stochastic"), ("int8", "int8, blocks of 256, stochastic")],
)
def test_narrow_moments_are_named(state_dtype, kept):
    """The format is measured in the moments; the formula is found with float32 ones."""
    found = identify("ms_adam.AdamW", {"state_dtype": state_dtype})
    assert found.formula == f"Algorithm 1; moments kept in {kept}"
    assert answers(found)["moments"] == ("found", kept)
    assert found.options == {"state_dtype": state_dtype}


def test_moments_that_are_rounded_to_nearest_are_not_called_stochastic():
    from ms_adam.lab.studies.identify import storage

    for name in ("ms_adam.Adam", "mindspore.nn.Adam"):
        assert storage.stochastic(Driver(find(name))) is None


def test_one_minus_beta_in_float32_is_found():
    """1 - float32(0.999) is off by 1.3e-5; ours takes it in float64."""
    found = known("mindspore.nn.Adam")
    assert found.finding("measured").answer == "1 - beta2 runs as 0.00099998713 (taken in float32)"
    assert found.measured["1 - beta2"] == 1 - np.float32(0.999)
    ours = identify("ms_adam.Adam", {"betas": (0.85, 0.997), "eps": 3e-7})
    assert ours.finding("measured").answer == "as given"
    # A rounding of the moment, four of the first step.
    given = {"beta1": 0.85, "beta2": 0.997, "1 - beta2": 0.003, "eps": 3e-7, "weight_decay": 1.0}
    for role, value in given.items():
        assert abs(ours.measured[role] / value - 1) < 4 * 2.0**-24, role


# Mutants.


def check(found, expected):
    assert not found.algorithm1
    if expected == mutants.UNKNOWN:
        assert found.status == "no known formula" and found.formula.startswith(expected)
    else:
        assert (found.status, found.formula) == (FOUND, expected)
    assert found.residual is not None and found.next_residual is not None


def test_the_unmutated_is_algorithm_1():
    for made in (mutants.Adam, mutants.MindSporeAdam):
        found = identified(made)
        assert found.formula == "Algorithm 1" and found.algorithm1
        assert answers(found)["decay"] == (FOUND, "L2, added to the gradient")


def test_there_are_enough_mutants():
    assert len(mutants.EXPECTED) + len(mutants.IN_MINDSPORE) >= 20


@pytest.mark.parametrize("mutant", mutants.EXPECTED, ids=lambda mutant: mutant.__name__)
def test_mutant_is_not_taken_for_adam(mutant):
    check(identified(mutant), mutants.EXPECTED[mutant])


@pytest.mark.parametrize("mutant", mutants.IN_MINDSPORE, ids=lambda mutant: mutant.__name__)
def test_mindspore_mutant_is_not_taken_for_adam(mutant):
    made = type("Mutant", (mutants.MindSporeAdam,), {"method": mutant})
    check(identified(made), mutants.EXPECTED[mutant])


@pytest.mark.parametrize(
    "after, wanted",
    [
        (lambda a, old, new, g: new * (1 - a.learning_rate * a.weight_decay), None),
        (lambda a, old, new, g: new + a.learning_rate * a.weight_decay * old, None),
        (
            lambda a, old, new, g: new - a.weight_decay * old,
            (FOUND, "decoupled, not times the learning rate"),
        ),
    ],
    ids=["after", "sign", "unscaled"],
)
def test_mutated_decay(after, wanted):
    made = type("Mutant", (mutants.Adam,), {"gradient": lambda a, g, w: g, "after": after})
    found = identified(made)
    if wanted is None:
        assert found.finding("decay").status == "no known formula" and not found.algorithm1
    else:
        assert answers(found)["decay"] == wanted


class CountsTwice(reference.CannAdamW):
    def update(self, w, g, state):
        w, state = super().update(w, g, state._replace(step=state.step + 1))
        return w, state._replace(step=state.step - 1)


class PowerOneUnitOff(reference.CannAdamW):
    """What a device's own power may do."""

    def power(self, beta, t):
        return np.nextafter(super().power(beta, t), np.float32(0))


class TiesToEven(reference.CannAdamW):
    def stored(self, x):
        return rounded(np.asarray(x, np.float32), "bfloat16").astype(np.float64)


class WideMoments(reference.CannAdamW):
    def update(self, w, g, state):
        wide = reference.CannAdamW(**{**vars(self), "dtype": "float32"})
        w, state = wide.update(self.stored(w), self.stored(g), state)
        return self.stored(w), state


class FloatScalars(reference.CannAdamW):
    """1 - beta in float64, as in our kernel."""

    def update(self, w, g, state):
        method = reference.Adam(*list(vars(self).values())[:4])
        w, state = method.update(w, g, state)
        return self.stored(w), state


@pytest.mark.parametrize(
    "made, dtype, expected",
    [
        (reference.CannAdamW, "float32", "Algorithm 1 in CANN's arithmetic"),
        (reference.CannAdamW, "float16", "Algorithm 1 in CANN's arithmetic, float16"),
        (reference.CannAdamW, "bfloat16", "Algorithm 1 in CANN's arithmetic, bfloat16"),
        (PowerOneUnitOff, "float32", "Algorithm 1 in CANN's arithmetic"),
        (CountsTwice, "float32", "Algorithm 1, steps counted from 2"),
        (FloatScalars, "float32", "Algorithm 1"),
        (TiesToEven, "bfloat16", mutants.UNKNOWN),
        (WideMoments, "bfloat16", mutants.UNKNOWN),
        (WideMoments, "float16", mutants.UNKNOWN),
    ],
)
def test_canns_arithmetic(made, dtype, expected):
    found = identify_target(describe("it", made, {"dtype": dtype}))
    if expected == mutants.UNKNOWN:
        assert found.status == expected and found.formula.startswith(expected)
    else:
        assert (found.status, found.formula) == (FOUND, expected)


def test_an_open_question_is_ambiguous():
    """With beta1 = 0 there is nothing to correct in the first moment."""
    found = identify("ms_adam.reference.Adam", {"beta1": 0.0})
    assert found.status == "ambiguous" and not found.algorithm1
    assert "Algorithm 1" in found.formula and "only the second moment corrected" in found.formula


@pytest.mark.parametrize("optimizer", ["AdamW", "AdaMax"])
def test_the_tail_of_a_step_does_not_disturb(optimizer):
    """Gradients carry the loss scale, and each is given in all calls of an update."""
    plain = known(f"ms_adam.{optimizer}")
    tail = {
        "loss_scale": amp.DynamicLossScaler(2.0**10, 2, 10_000),
        "accumulate_steps": 2,
        "max_grad_norm": 1e6,
        "skip_nonfinite": True,
        "ema_decay": 0.9,
    }
    found = identify(f"ms_adam.{optimizer}", tail)
    assert found.status == FOUND and found.formula == plain.formula
    assert found.algorithm1 == plain.algorithm1 and answers(found) == answers(plain)


# What is known.

OURS = {
    "powers": (FOUND, "no drift"),
    "halves": (FOUND, "float32 or better"),
    "amsgrad": (FOUND, "maximum before correction"),
}
NN_ADAM = {
    "powers": (FOUND, "drifts: float32 powers multiplied up"),
    "decay": (FOUND, "L2, added to the gradient"),
    "amsgrad": (FOUND, "maximum before correction"),
    "nesterov": (FOUND, "both parts under this step's correction"),
    "halves": (FOUND, "float16"),
    "rows": (FOUND, "updated (exact)"),
    "heeded": (FOUND, "heeds learning_rate, beta1, beta2, eps"),
}
LAZY = {"rows": (FOUND, "left alone (lazy)")}
NO_CORRECTION = {"decay": (FOUND, DECOUPLED), "first_step": (FOUND, "no count")}
EXPERIMENTAL = "mindspore.experimental.optim"
SUM = "AdaGrad (sum starts at 0.1)"
KNOWN = [
    ("ms_adam.Adam", {}, "Algorithm 1", {**OURS, "decay": NN_ADAM["decay"]}),
    ("ms_adam.AdamW", {}, "Algorithm 1", {**OURS, "decay": (FOUND, DECOUPLED)}),
    ("mindspore.nn.Adam", {}, "epsilon-hat", NN_ADAM),
    ("mindspore.nn.Adam", {"use_lazy": True}, "epsilon-hat", LAZY),
    ("mindspore.nn.LazyAdam", {}, "epsilon-hat", LAZY),
    ("mindspore.nn.AdamOffload", {}, "epsilon-hat", {"halves": ("refused", None)}),
    (f"{EXPERIMENTAL}.Adam", {}, "epsilon-hat", {"amsgrad": ("option ignored", "none")}),
    (
        f"{EXPERIMENTAL}.Adam",
        {"amsgrad": True},
        "epsilon-hat",
        {"amsgrad": ("option ignored", "none")},
    ),
    (f"{EXPERIMENTAL}.AdamW", {}, "Algorithm 1", {"decay": (FOUND, DECOUPLED)}),
    ("mindspore.nn.AdamWeightDecay", {}, "no bias correction", NO_CORRECTION),
    ("mindspore.nn.SGD", {}, "SGD", {}),
    ("mindspore.nn.Momentum", {}, "SGD with momentum", {}),
    ("mindspore.nn.SGD", {"momentum": 0.9, "nesterov": True}, "SGD with Nesterov momentum", {}),
    ("mindspore.nn.Adagrad", {}, SUM, {}),
    ("mindspore.nn.RMSProp", {}, "RMSProp, mean square starts at 1", {}),
    ("mindspore.nn.AdaMax", {}, "AdaMax", {}),
    (f"{EXPERIMENTAL}.RMSprop", {}, "RMSProp", {}),
    (f"{EXPERIMENTAL}.NAdam", {}, "NAdam", {}),
    ("ms_adam.reference.RMSProp", {"centered": True}, "RMSProp, centered", {}),
    # test_targets.py builds all kinds of factories; here, of each kind of arguments
    (f"{FACTORIES}:Chosen", {"adamw": True}, "Algorithm 1", {"decay": (FOUND, DECOUPLED)}),
    (f"{FACTORIES}:Holder.make", {}, "epsilon-hat", {}),
    (f"{FACTORIES}:with_groups", {}, "Algorithm 1", {"decay": (FOUND, DECOUPLED)}),
    (f"{FACTORIES}:by_position", {}, "epsilon-hat", {}),
    (f"{FACTORIES}.of_class", {}, "epsilon-hat", {}),
]


@pytest.mark.parametrize("path, options, formula, wanted", KNOWN, ids=lambda it: str(it)[-40:])
def test_known(path, options, formula, wanted):
    found = identify(path, options) if options else known(path)
    assert (found.status, found.formula) == (FOUND, formula)
    adam = path.startswith(("ms_adam.Adam", EXPERIMENTAL)) and formula == "Algorithm 1"
    if not path.startswith(FACTORIES):
        assert found.algorithm1 == adam
    got = answers(found)
    for question, (status, answer) in wanted.items():
        assert got[question] == (status, answer or got[question][1])
        if status == "option ignored":
            assert "amsgrad=True" in found.finding(question).note


def test_other_formula_is_not_known():
    assert identify("mindspore.nn.FTRL").formula == "no known formula"


def test_relatives_have_distinct_names():
    values = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "accumulator": 0.1}
    names = [relative.name() for relative in relatives(values)]
    assert len(names) == len(set(names)) == 18


# Targets.


def test_numbers_are_read_from_the_optimizer(tmp_path, monkeypatch):
    (tmp_path / "own_optimizers.py").write_text(
        "from mindspore import nn\n"
        "def make(weights):\n    return nn.Adam(weights, eps=1e-6, beta2=0.99)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for found, eps, beta2 in (
        (identify("own_optimizers:make"), 1e-6, 0.99),  # the factory does not say
        (known(f"{FACTORIES}.of_class"), 1e-6, 0.999),
    ):
        assert found.formula == "epsilon-hat" and found.assumed == []
        assert found.numbers["eps"] == pytest.approx(eps)
        assert found.numbers["beta2"] == pytest.approx(beta2)


def test_a_decay_that_cannot_be_switched_off_is_told():
    found = identify(f"{FACTORIES}:fixed_decay")
    assert found.status == "no known formula"
    assert "weight decay of 0.01 cannot be set to 0" in found.formula
    assert "weight decay" not in known(f"{FACTORIES}:with_groups").formula


def test_arguments_are_those_of_what_is_called():
    """Of __new__ or the metaclass where they take them; what a partial sets is its default."""
    names = {
        path: list(find(f"{FACTORIES}:{path}").parameters)
        for path in ("Chosen", "ByMetaclass", "Counted", "of_theirs")
    }
    assert names["Chosen"] == ["learning_rate", "eps", "weight_decay", "adamw"]
    assert names["ByMetaclass"] == ["learning_rate"]
    assert names["Counted"][:2] == ["learning_rate", "beta1"]  # its __new__ hands on all it gets
    assert names["of_theirs"] == list(find("mindspore.nn.Adam").parameters)
    assert find(f"{FACTORIES}:of_theirs").given("eps") == 1e-6


@pytest.mark.parametrize(
    "path, options, words",
    [
        ("mindspore.nn.Adm", {}, ("mindspore.nn has no 'Adm'", "did you mean Adam")),
        ("mindspore.nn.Dense", {}, ("not an optimizer", "mindspore.nn.Optimizer")),
        (
            "ms_adam.reference.Adam",
            {"esp": 1.0},
            ("no argument 'esp'", "did you mean eps", "beta1=0.9"),
        ),
        ("mindspore.nn.Adam", {"params": []}, ("'params' is the optimized parameters",)),
        ("ms_adam.reference.Adam", {"beta1": 2.0}, ("cannot be made", "'beta1' must be a number")),
        ("lab.studies.identify.mutants:bfloat16", {}, ("returns no optimizer", "it raised")),
        (f"{FACTORIES}.ReturnsNone", {}, ("returns no optimizer", "it returned None")),
        (f"{FACTORIES}:returns_class", {}, ("returns no optimizer", "returned the class Adam")),
        (f"{FACTORIES}:returns_cell", {}, ("it returned Dense", "mindspore.nn.Optimizer")),
        (f"{FACTORIES}:returns_pair", {}, ("it returned tuple of 2",)),
        (f"{FACTORIES}:returns_nothing_to_step", {}, ("returned dict, not an optimizer",)),
        (
            f"{FACTORIES}.Chosen",
            {"adamw": True, "esp": 1e-3},
            ("no argument 'esp'", "did you mean eps", "adamw=False"),
        ),
        (f"{FACTORIES}:needs_steps", {}, ("needs steps: add --set steps=VALUE",)),
    ],
)
def test_errors_say_what_is_allowed(path, options, words):
    with pytest.raises(UserError) as raised:
        identify(path, options)
    for part in words:
        assert part in str(raised.value)


def test_class_that_needs_another_argument():
    class Needy(mutants.MindSporeAdam):
        def __init__(self, params, warmup, learning_rate=1e-3):
            super().__init__(params, learning_rate)

    with pytest.raises(UserError, match=r"needs warmup: add --set warmup=VALUE\n.*learning_rate"):
        identified(Needy)
    assert Driver(describe("Needy", Needy, {"warmup": 3})).kind == "mindspore"


def test_optimizer_that_raises_is_refused():
    class Broken(mutants.MindSporeAdam):
        def construct(self, gradients):
            raise RuntimeError("no kernel here")

    found = identified(Broken)
    assert found.status == "refused"
    assert found.formula == "does not run here: RuntimeError: no kernel here"


def test_torch_optimizers_are_driven_as_torch_does(monkeypatch):
    """With a stand-in of the five names of torch that the driver uses."""
    monkeypatch.setitem(sys.modules, "torch", stand_in_for_torch())
    found = identified(sys.modules["torch"].optim.It)
    assert found.formula == "Algorithm 1" and found.algorithm1


def stand_in_for_torch():
    class Parameter:
        def __init__(self, value):
            self.value, self.dtype, self.grad = value, value.dtype, None

        def detach(self):
            return self

        def numpy(self):
            return self.value

    class Optimizer:
        pass

    class It(Optimizer):
        def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
            self.params, self.method = params, mutants.Adam(lr, *betas, eps)
            self.state = self.method.init(params[0].value)

        def step(self):
            (w,) = self.params
            new, self.state = self.method.step(w.value, w.grad, self.state)
            w.value = new.astype(w.dtype)

    torch = types.ModuleType("torch")
    torch.nn = types.SimpleNamespace(Parameter=Parameter)
    torch.optim = types.SimpleNamespace(Optimizer=Optimizer, It=It)
    torch.float32, torch.float16 = np.float32, np.float16
    torch.tensor = lambda values, dtype: np.array(values, dtype)
    return torch


def test_everything_in_the_catalogue_exists():
    for path, options in ADAMS:
        assert str(find(path, options)).startswith(path)


# Tables.


def test_tables_have_a_cell_for_each_head():
    found = identify("ms_adam.reference.Adam", {"decoupled": True})
    row = tables.summary_row(found)
    assert len(row) == len(tables.SUMMARY)
    assert row[:3] == ("ms_adam.reference.Adam(decoupled=True)", "Algorithm 1", "decoupled")
    rows = list(tables.detail_rows(found))
    assert all(len(row) == len(tables.DETAILS) for row in rows)
    assert {row[0] for row in rows} >= {"epsilon", "weight decay", "first step"}


def test_choices_are_all_fields_of_form():
    assert set(WORDS) == set(vars(Form()))


# The page on conformance.


def test_the_page_on_conformance_is_what_is_measured():
    """docs/conformance.md has the rows that are measured here."""
    rows = (Path(__file__).parents[4] / "docs" / "conformance.md").read_text().splitlines()
    found = [known("ms_adam.AdamW"), known("mindspore.nn.Adam")]
    for one in found:
        assert "| " + " | ".join(tables.conformance_row(one)) + " |" in rows
    lines = conformance.page(found).splitlines()
    for name in ("mindspore", "ms_adam"):
        at = lines.index(f"## {name}")
        assert sum(line.startswith(f"| {name}.") for line in lines[at:]) >= 1
    assert lines[lines.index("## mindocr") + 2].startswith("Not installed")
