"""Identification: right for what is known, and never fooled by a mutant."""

import itertools
import sys
import types

import mindspore as ms
import numpy as np
import pytest
from lab.studies.identify import mutants
from mindspore import Tensor

from ms_adam import reference
from ms_adam.lab.errors import UserError
from ms_adam.lab.studies.identify import identify, identify_target, probes, tables
from ms_adam.lab.studies.identify.catalogue import ADAMS
from ms_adam.lab.studies.identify.driver import Driver
from ms_adam.lab.studies.identify.forms import CHOICES, Form, Numbers, rounded, structures
from ms_adam.lab.studies.identify.judge import errors, judge
from ms_adam.lab.studies.identify.relatives import relatives
from ms_adam.lab.targets import describe, find


def answers(identification):
    """(status, answer) by question."""
    return {f.question: (f.status, f.answer) for f in identification.findings}


# The hypotheses.

COVERED = [
    dict(
        epsilon=epsilon,
        bias_correction=corrected,
        nesterov=nesterov,
        amsgrad=amsgrad,
        decoupled=decoupled,
    )
    for epsilon, corrected, nesterov, amsgrad, decoupled in itertools.product(
        ("outside", "hat", "inside"), *[(False, True)] * 4
    )
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
    """No two hypotheses are the same: a wrong answer can not hide behind a right one."""
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


# Mutants.


def test_the_unmutated_is_algorithm_1():
    for made in (mutants.Adam, mutants.MindSporeAdam):
        found = identify_target(describe("it", made))
        assert found.formula == "Algorithm 1" and found.algorithm1
        assert answers(found)["decay"] == ("found", "L2, added to the gradient")


def test_there_are_enough_mutants():
    assert len(mutants.EXPECTED) + len(mutants.MINDSPORE_EXPECTED) >= 20


@pytest.mark.parametrize("mutant", mutants.EXPECTED, ids=lambda mutant: mutant.__name__)
def test_mutant_is_not_taken_for_adam(mutant):
    check(identify_target(describe("it", mutant)), mutants.EXPECTED[mutant])


@pytest.mark.parametrize("mistake", mutants.MINDSPORE_EXPECTED)
def test_mindspore_mutant_is_not_taken_for_adam(mistake):
    made = type("Mutant", (mutants.MindSporeAdam,), {"mistake": mistake})
    check(identify_target(describe("it", made)), mutants.MINDSPORE_EXPECTED[mistake])


def check(found, expected):
    assert not found.algorithm1
    if expected == mutants.UNKNOWN:
        assert found.status == "no known formula" and found.formula.startswith(expected)
    else:
        assert (found.status, found.formula) == ("found", expected)
    assert found.residual is not None and found.next_residual is not None


@pytest.mark.parametrize("decay", ("after", "sign"))
def test_mutated_decay_is_no_known_decay(decay):
    part = {
        "after": lambda self, old, new, g: new * (1 - self.learning_rate * self.weight_decay),
        "sign": lambda self, old, new, g: new + self.learning_rate * self.weight_decay * old,
    }
    made = type("Mutant", (mutants.Adam,), {"gradient": lambda self, g, w: g, "after": part[decay]})
    found = identify_target(describe("it", made))
    assert found.finding("decay").status == "no known formula"
    assert not found.algorithm1


def test_unscaled_decay_is_named():
    made = type(
        "It",
        (mutants.Adam,),
        {
            "gradient": lambda self, g, w: g,
            "after": lambda self, old, new, g: new - self.weight_decay * old,
        },
    )
    found = identify_target(describe("it", made))
    assert answers(found)["decay"] == ("found", "decoupled, not times the learning rate")


def test_what_can_not_be_told_is_ambiguous():
    """With beta1 = 0 there is nothing to correct in the first moment."""
    found = identify("ms_adam.reference.Adam", {"beta1": 0.0})
    assert found.status == "ambiguous"
    assert "Algorithm 1" in found.formula and "only the second moment corrected" in found.formula
    assert not found.algorithm1


# What is known.


def test_nn_adam():
    found = identify("mindspore.nn.Adam")
    assert (found.status, found.formula, found.algorithm1) == ("found", "epsilon-hat", False)
    got = answers(found)
    assert got["powers"] == ("found", "drifts: float32 powers multiplied up")
    assert got["decay"] == ("found", "L2, added to the gradient")
    assert got["amsgrad"] == ("found", "maximum before correction")
    assert got["nesterov"] == ("found", "both parts under this step's correction")
    assert got["halves"] == ("found", "float16")
    assert got["rows"] == ("found", "updated (exact)")
    assert got["heeded"] == ("found", "heeds learning_rate, beta1, beta2, eps")


@pytest.mark.parametrize(
    "path, options", [("mindspore.nn.Adam", {"use_lazy": True}), ("mindspore.nn.LazyAdam", {})]
)
def test_lazy(path, options):
    found = identify(path, options)
    assert found.formula == "epsilon-hat"
    assert answers(found)["rows"] == ("found", "left alone (lazy)")


def test_offload():
    found = identify("mindspore.nn.AdamOffload")
    assert found.formula == "epsilon-hat"
    assert found.finding("halves").status == "refused"


def test_experimental_adam_ignores_amsgrad():
    asked = identify("mindspore.experimental.optim.Adam")
    given = identify("mindspore.experimental.optim.Adam", {"amsgrad": True})
    for found in (asked, given):
        assert found.formula == "epsilon-hat"
        finding = found.finding("amsgrad")
        assert (finding.status, finding.answer) == ("option ignored", "none")
        assert "amsgrad=True" in finding.note


def test_experimental_adamw():
    found = identify("mindspore.experimental.optim.AdamW")
    assert found.formula == "Algorithm 1" and found.algorithm1
    assert answers(found)["decay"] == ("found", "decoupled, times the learning rate")


def test_adam_weight_decay():
    found = identify("mindspore.nn.AdamWeightDecay")
    assert found.formula == "no bias correction"
    assert answers(found)["decay"] == ("found", "decoupled, times the learning rate")
    assert answers(found)["first_step"] == ("found", "no count")


@pytest.mark.parametrize(
    "path, decay",
    [
        ("ms_adam.Adam", "L2, added to the gradient"),
        ("ms_adam.AdamW", "decoupled, times the learning rate"),
    ],
)
def test_ours(path, decay):
    found = identify(path)
    assert found.formula == "Algorithm 1" and found.algorithm1
    got = answers(found)
    assert got["decay"] == ("found", decay)
    assert got["powers"] == ("found", "no drift")
    assert got["halves"] == ("found", "float32 or better")
    assert got["amsgrad"] == ("found", "maximum before correction")


@pytest.mark.parametrize(
    "path, options, name",
    [
        ("mindspore.nn.SGD", {}, "SGD"),
        ("mindspore.nn.Momentum", {}, "SGD with momentum"),
        ("mindspore.nn.SGD", {"momentum": 0.9, "nesterov": True}, "SGD with Nesterov momentum"),
        ("mindspore.nn.Adagrad", {}, "AdaGrad (sum starts at 0.1)"),
        ("mindspore.nn.RMSProp", {}, "RMSProp, mean square starts at 1"),
        ("mindspore.nn.AdaMax", {}, "AdaMax"),
        ("mindspore.experimental.optim.RMSprop", {}, "RMSProp"),
        ("mindspore.experimental.optim.NAdam", {}, "NAdam"),
        ("ms_adam.reference.RMSProp", {"centered": True}, "RMSProp, centered"),
    ],
)
def test_not_adam_is_named(path, options, name):
    found = identify(path, options)
    assert (found.status, found.formula) == ("found", name)
    assert not found.algorithm1


def test_other_formula_is_not_known():
    assert identify("mindspore.nn.FTRL").formula == "no known formula"


def test_relatives_of_reference_have_distinct_names():
    values = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "accumulator": 0.1}
    names = [relative.name() for relative in relatives(values)]
    assert len(names) == len(set(names))


# Targets.


def test_factory_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "own_optimizers.py").write_text(
        "from mindspore import nn\n"
        "def make(weights):\n    return nn.Adam(weights, eps=1e-6, beta2=0.99)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = identify("own_optimizers:make")
    assert found.formula == "epsilon-hat"
    # read from the optimizer: the factory does not say
    assert found.numbers["eps"] == pytest.approx(1e-6)
    assert found.numbers["beta2"] == pytest.approx(0.99)
    assert found.assumed == []


@pytest.mark.parametrize(
    "path, options, formula, decay",
    [
        # a class whose __new__ returns one of two other classes, as MindFormers' AdamW does
        ("lab.studies.identify.factories.Chosen", {}, "epsilon-hat", None),
        (
            "lab.studies.identify.factories:Chosen",
            {"adamw": True},
            "Algorithm 1",
            "decoupled, times the learning rate",
        ),
        ("lab.studies.identify.factories.Holder.Chosen", {"adamw": True}, "Algorithm 1", None),
        ("lab.studies.identify.factories:Holder.make", {}, "epsilon-hat", None),
        ("lab.studies.identify.factories.ByMetaclass", {}, "epsilon-hat", None),
        (
            "lab.studies.identify.factories:with_groups",
            {},
            "Algorithm 1",
            "decoupled, times the learning rate",
        ),
        ("lab.studies.identify.factories:handed_on", {}, "epsilon-hat", None),
        ("lab.studies.identify.factories:by_position", {}, "epsilon-hat", None),
        ("lab.studies.identify.factories:imports_late", {}, "Algorithm 1", None),
        ("lab.studies.identify.factories.of_class", {}, "epsilon-hat", None),
        ("lab.studies.identify.factories:of_function", {}, "Algorithm 1", None),
        ("lab.studies.identify.factories.callable_object", {}, "epsilon-hat", None),
        ("lab.studies.identify.factories:of_reference", {}, "epsilon-hat", None),
    ],
)
def test_any_callable_that_returns_an_optimizer(path, options, formula, decay):
    found = identify(path, options)
    assert (found.status, found.formula) == ("found", formula)
    if decay is not None:
        assert answers(found)["decay"] == ("found", decay)


def test_a_decay_that_can_not_be_switched_off_is_told():
    found = identify("lab.studies.identify.factories:fixed_decay")
    assert found.status == "no known formula"
    assert "weight decay of 0.01 can not be set to 0" in found.formula
    assert "weight decay" not in identify("lab.studies.identify.factories:with_groups").formula


def test_arguments_are_those_of_what_is_called():
    """Of __new__ or the metaclass where they take them; what a partial sets is its default."""
    names = {
        path: list(find(f"lab.studies.identify.factories:{path}").parameters)
        for path in ("Chosen", "ByMetaclass", "Counted", "of_class")
    }
    assert names["Chosen"] == ["learning_rate", "eps", "weight_decay", "adamw"]
    assert names["ByMetaclass"] == ["learning_rate"]
    assert names["Counted"][:2] == ["learning_rate", "beta1"]  # its __new__ hands on all it gets
    assert find("lab.studies.identify.factories:of_class").given("eps") == 1e-6
    assert identify("lab.studies.identify.factories:of_class").numbers["eps"] == pytest.approx(1e-6)


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
        ("mindspore.nn.Adam", {"params": []}, ("'params' is what is optimized",)),
        ("ms_adam.reference.Adam", {"beta1": 2.0}, ("cannot be made", "'beta1' must be a number")),
        ("lab.studies.identify.mutants:bfloat16", {}, ("returns no optimizer", "it raised")),
        (
            "lab.studies.identify.factories.ReturnsNone",
            {},
            ("returns no optimizer", "it returned None"),
        ),
        (
            "lab.studies.identify.factories:returns_class",
            {},
            ("returns no optimizer", "returned the class Adam"),
        ),
        (
            "lab.studies.identify.factories:returns_cell",
            {},
            ("it returned Dense", "mindspore.nn.Optimizer"),
        ),
        ("lab.studies.identify.factories:returns_pair", {}, ("it returned tuple of 2",)),
        (
            "lab.studies.identify.factories:returns_nothing_to_step",
            {},
            ("returned dict, not an optimizer",),
        ),
        (
            "lab.studies.identify.factories.Chosen",
            {"adamw": True, "esp": 1e-3},
            ("no argument 'esp'", "did you mean eps", "adamw=False"),
        ),
        ("lab.studies.identify.factories:needs_steps", {}, ("needs steps: add --set steps=VALUE",)),
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
        identify_target(describe("Needy", Needy))
    assert Driver(describe("Needy", Needy, {"warmup": 3})).kind == "mindspore"


def test_optimizer_that_raises_is_refused():
    class Broken(mutants.MindSporeAdam):
        def construct(self, gradients):
            raise RuntimeError("no kernel here")

    found = identify_target(describe("Broken", Broken))
    assert found.status == "refused"
    assert found.formula == "does not run here: RuntimeError: no kernel here"


def test_torch_optimizers_are_driven_as_torch_does(monkeypatch):
    """With a stand-in of the five names of torch that the driver uses."""
    monkeypatch.setitem(sys.modules, "torch", stand_in_for_torch())
    found = identify_target(describe("torch.optim.It", sys.modules["torch"].optim.It))
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
    text = tables.markdown(("a", "b"), [("x|y", "z")])
    assert text == "| a | b |\n| --- | --- |\n| x\\|y | z |"


def test_choices_are_all_fields_of_form():
    assert set(CHOICES) == set(vars(Form()))
