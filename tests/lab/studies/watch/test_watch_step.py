"""Steps judged in float64: each formula is told from the others, and shares are those made here."""

import itertools
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from ms_adam.lab import targets
from ms_adam.lab.measure import spacing
from ms_adam.lab.studies.watch import account, follow, parting, replacing, step, study, verdict
from ms_adam.lab.studies.watch.follow import Watch
from ms_adam.lab.studies.watch.reading import Reader, stride
from ms_adam.lab.studies.watch.schedule import FIRST, IDLE, PROMISED, SHARE, Budget, Schedule
from ms_adam.reference import Adam, AdamState

ADAM = Adam(beta1=0.9, beta2=0.99, eps=1e-3)
RATE, DECAY, T = 0.01, 0.1, 3


def part(method, dtype="float32", **arrays):
    """What a method does in step T, rounded to the weight's dtype, from moments of its own."""
    rng = np.random.default_rng(0)
    size = len(arrays.get("gradient", np.zeros(64)))
    sizes = 10.0 ** -rng.uniform(1, 4, size)  # around epsilon
    given = {
        "weight": rng.standard_normal(size),
        "moment1": 0.3 * sizes * rng.standard_normal(size),
        "moment2": 0.1 * sizes**2 * rng.uniform(0.5, 2.0, size),
        "gradient": sizes * rng.standard_normal(size),
        **arrays,
    }
    given.setdefault("largest", 3.0 * given["moment2"])
    weight = given["weight"] = given["weight"].astype(dtype).astype(np.float64)
    state = AdamState(T - 1, given["moment1"], given["moment2"], given["largest"])
    method = replace(method, learning_rate=RATE, weight_decay=DECAY)
    after, state = method.update(weight, given["gradient"], state)
    return step.Part(
        name="w",
        size=size,
        dtype=dtype,
        moment_dtype="float32",
        rate=RATE,
        decay=DECAY,
        weight_after=after.astype(dtype).astype(np.float64),
        moment1_after=state.moment1,
        moment2_after=state.moment2,
        **given,
    )


FORMULAS = step.formulas(ADAM, decay=True, maximum=True)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_that_made_a_step_fits_it_best(name):
    made = part(FORMULAS[name])
    off = {other: step.distance(method, [made], T) for other, method in FORMULAS.items()}
    # Weights are float32, everything else float64: nothing is left beyond the weights' rounding.
    assert off[name] == 0.0
    assert min(far for other, far in off.items() if other != name) > 100 * step.FITS


@pytest.mark.parametrize("name", [name for name in FORMULAS if "decoupled" in name])
def test_the_gradient_follows_from_the_first_moment(name):
    made = part(FORMULAS[name])
    again = made.with_moment_gradient(ADAM.beta1)
    # 1 / (1 - beta1) amplifies float64's rounding of the moments.
    np.testing.assert_allclose(again.gradient, made.gradient, rtol=1e-12, atol=1e-15)
    l2 = part(FORMULAS[name.replace("decoupled decay", "L2")])
    decayed = l2.with_moment_gradient(ADAM.beta1).gradient
    np.testing.assert_allclose(decayed, l2.gradient + DECAY * l2.weight, rtol=1e-12)


def test_parts_of_several_dtypes_and_a_step_counted_too_late():
    parts = [part(ADAM), part(ADAM, "float16")]
    assert step.distance(ADAM, parts, T) == 0.0
    assert step.distance(ADAM, parts, T + 1) > 0.01


def test_a_distance_is_the_error_over_the_update():
    made = part(ADAM, weight=np.zeros(64))
    far = made._replace(weight_after=1.25 * made.weight_after)
    assert step.distance(ADAM, [far], T) == pytest.approx(0.25, rel=1e-5)  # less rounding, 6e-8
    assert step.distance(ADAM, [far._replace(weight_after=far.weight)], T) == pytest.approx(1.0)


def test_numbers_where_a_formula_has_none_are_no_fit():
    made = part(replace(ADAM, eps=0.0), gradient=np.zeros(64))
    still = made._replace(weight_after=made.weight, decay=0.0)
    nothing = dict.fromkeys(("moment1", "moment2"), np.zeros(64))
    assert step.distance(replace(ADAM, eps=0.0), [still._replace(**nothing)], T) == np.inf


def test_steps_that_are_counted_from_below_zero():
    """As in mint.optim.AdamW, which runs on Ascend only."""
    optimizer = nn.Adam([Parameter(Tensor([0.0], ms.float32), name="w")])
    optimizer.global_step.set_data(Tensor([-1], ms.int32))
    reader = Reader(optimizer)
    assert reader.count() == 0
    optimizer((Tensor([1.0], ms.float32),))
    assert reader.count() == 1


def test_shares():
    g = np.array([1.0, 5e-3, 5e-4, 1e-4, 0.0])
    zeros = np.zeros(5)
    arrays = {"weight": zeros, "gradient": g, "moment1": zeros, "moment2": zeros}
    made = part(replace(ADAM, epsilon="hat"), **arrays)
    found = step.shares(replace(ADAM, epsilon="hat"), [made], 1)
    # sqrt(v) = 0.1 g <= 1e-3 for three of the four that move, vhat = g^2 for two of them.
    assert found == step.Shares(3 / 4, 2 / 4, 0.0, None)
    under = made._replace(moment2_after=np.array([1e-2, 1e-6, 0.0, 0.0, 0.0]))
    assert step.shares(ADAM, [under], 1).underflowed == 2 / 4
    held = made._replace(moment2=np.full(5, 1e-2), moment2_after=np.array([2e-2] + 4 * [1e-2]))
    assert step.shares(ADAM, [held], 2).stalled == 4 / 5


def test_stochastic_rounding_stalls_nothing():
    made = part(ADAM, weight=np.zeros(64))
    held = made._replace(moment2_after=made.moment2)
    assert step.shares(ADAM, [held], T).stalled > 0.9
    narrow = held._replace(moment_dtype="bfloat16, stochastic")
    assert step.shares(ADAM, [narrow], T).stalled is None


def judged(parts, gradients="as given", lazy=False):
    """What the account of an optimizer tells of a step."""
    followed = account.Followed(None, None, {}, (), None)
    followed._method, followed._gradients = ADAM, gradients
    followed._reader = SimpleNamespace(lazy=lazy)
    return followed._judged(parts, T)


def test_a_parameter_without_elements_hides_no_formula():
    empty = part(ADAM, gradient=np.zeros(0))
    made = part(replace(ADAM, decoupled=True))
    found = judged([empty, made])
    assert (found["formula"], found["gradients"]) == ("Algorithm 1, decoupled decay", "given")
    assert found["own"] == 0.0 and found["epsilon"] == judged([made])["epsilon"] > 0
    assert [row[0] for row in found["parameters"]] == ["w", "w"]


@pytest.mark.parametrize("stay", [slice(0, 48), slice(None)])
def test_rows_that_a_lazy_optimizer_leaves_are_not_lost(stay):
    made = part(replace(ADAM, decoupled=True))
    for name in ("weight", "moment1", "moment2"):
        getattr(made, f"{name}_after")[stay] = getattr(made, name)[stay]
    dense, lazy = judged([made], None), judged([made], None, lazy=True)
    if stay == slice(None):
        assert dense["lost"] == ["w"] and lazy["lost"] == [] and lazy["formula"] is None
    else:
        assert dense["own"] > 0.1
        assert lazy["formula"] == "Algorithm 1, decoupled decay" and lazy["own"] < 1e-12
    moved = np.zeros(64) if stay == slice(None) else made.gradient * (np.arange(64) >= 48)
    assert lazy["parameters"][0][1] == pytest.approx(np.linalg.norm(moved), rel=1e-3)


@pytest.mark.parametrize("gradients", ["as given", None])
def test_parameters_have_the_numbers_of_their_groups(gradients):
    own = {"beta1": 0.5, "beta2": 0.9, "eps": 1e-2, "maximize": True}
    method = replace(ADAM, decoupled=True)
    parts = [part(method), part(replace(method, **own))._replace(numbers=own)]
    found = judged(parts, gradients)
    # 1 / (1 - beta1) amplifies float64's rounding of moments, as above.
    assert found["formula"] == "Algorithm 1, decoupled decay" and found["own"] < 1e-12
    each = [judged([one], gradients) for one in parts]
    for share in ("epsilon", "epsilon_of_paper"):
        assert found[share] == pytest.approx(sum(one[share] for one in each) / 2)
    assert each[0]["epsilon"] != each[1]["epsilon"]


def test_gradients_that_nothing_tells_are_not_made_up():
    """An optimizer without moments, and moments of four digits, in a compiled step."""
    made = part(ADAM)._replace(gradient=np.zeros(0))
    assert judged([made], None)["gradients"] == "moments"
    nothing = dict.fromkeys(step.Part._fields[8:-1], np.zeros(0))
    for other in (made._replace(**nothing), made._replace(moment_dtype="int8, stochastic")):
        found = judged([other], None)
        assert found["formula"] is found["gradients"] is found["parameters"][0][1] is None


def test_decay_may_begin_later():
    """A formula without a kind of decay then fits no longer, though it did so until now."""
    followed = account.Followed(None, None, {}, (), None)
    made = part(ADAM, weight=np.zeros(64))
    without = followed._fitted([made._replace(decay=0.0)], ADAM, T)
    assert without["formula"] == "Algorithm 1" and without["own"] == 0.0
    assert followed._fitted([part(ADAM)], ADAM, T)["formula"] == "Algorithm 1, L2"
    assert followed._fitted([made._replace(decay=0.0)], ADAM, T) == without


def test_a_parameter_that_stays_is_lost_only_if_it_must_move():
    made = part(ADAM, weight=np.ones(64), gradient=np.full(64, 1e-3))
    assert not step.lost(ADAM, made, T)
    assert step.lost(ADAM, made._replace(weight_after=made.weight), T)
    slow = made._replace(rate=0.1 * spacing(1.0, "float32"), decay=0.0, weight_after=made.weight)
    assert not step.lost(ADAM, slow, T)


def test_decay_alone_and_the_place_of_epsilon_lose_no_parameter():
    """A step is not known to be lost where another formula does not move the weight either."""
    zeros = np.zeros(64)
    made = part(ADAM, gradient=zeros, moment1=zeros, moment2=zeros, weight=np.ones(64))
    assert (made.weight_after != made.weight).all()  # by L2; decoupled decay is below a rounding
    still = made._replace(weight_after=made.weight, decay=1e-6)
    assert not step.lost(ADAM, still, T)
    for gradient, is_lost in ((1.6e-7, False), (1.6e-6, True)):  # the first moves 5 units, or 0.8
        assert step.lost(ADAM, still._replace(gradient=np.full(64, gradient)), T) == is_lost


@pytest.mark.parametrize("kernel, count", [(9, 256 * 64), (25, 64 * 64), (49, 8192), (1, 10_000)])
def test_all_places_of_a_kernel_are_looked_at(kernel, count):
    size = kernel * count
    places = np.arange(size)[:: stride(size, 4096)]
    assert 4096 / 3 < len(places) <= 4096
    counts = np.bincount(places % kernel, minlength=kernel)
    assert counts.max() - counts.min() <= 1


def test_a_small_tensor_is_looked_at_as_a_whole():
    assert [stride(size, 32) for size in (1, 9, 32)] == [1, 1, 1]


def test_a_verdict_leaves_the_kind_of_decay_open_if_it_shows_none():
    """As with MindCV's default of 1e-6: float32 rounds 1e-9 of a weight away."""
    for alike, kind in (
        ("Algorithm 1, L2", "L2 or decoupled decay"),
        ("epsilon-hat, decoupled decay", "decoupled decay"),
    ):
        found = summary(formula="Algorithm 1, decoupled decay", alike=[alike])["verdict"]
        assert found == f"O computes Algorithm 1, {kind}: its updates are at most 2.0e-6 from it."


def summary(name="O", formula="Algorithm 1", own=1e-6, paper=1e-6, **more):
    """An account of what `verdict` reads."""
    found = dict.fromkeys(("not_finite", "lost", "underflowed", "stalled", "epsilon"))
    found.update(name=name, looks=9, moments=["float32"], formula=formula, alike=[])
    for key, far in (("own", own), ("paper", paper)):
        found[key] = None if formula is None else {"median": far, "most": 2 * far, "call": 1}
    found.update(more)
    return {**found, "verdict": verdict.verdict(found)}


def test_the_verdict_on_a_run_is_that_of_its_worst_optimizer():
    ranked = [
        summary("0", not_finite={"call": 3, "parameter": "w", "quantities": ["weight"]}),
        summary("1", lost={"steps": 1, "of": 2, "parameters": ["w"], "after": None}),
        summary("2", underflowed={"median": 0.5, "most": 0.5, "call": 1}),
        summary("3", own=0.5, paper=0.5),
        summary("4", "epsilon-hat", paper=0.5),
        summary("5"),
        summary("6", None, looks=0),
    ]
    for place in range(len(ranked)):
        assert verdict.overall(ranked[place:][::-1]) == ranked[place]["verdict"]
    assert len({one["verdict"][1:] for one in ranked}) == len(ranked)


@pytest.mark.parametrize(
    "moments, words",
    [([], "has no two moments that could be read"), (["float32"], "none of 9 calls that were")],
)
def test_why_an_optimizer_is_held_to_no_formula(moments, words):
    assert words in summary(formula=None, moments=moments)["verdict"]


def test_calls_without_an_update_are_counted_where_a_call_makes_one():
    def skipped(counts, updates=1):
        looks = [{"call": 2 * i, "count": c, "updates": updates} for i, c in enumerate(counts, 1)]
        return verdict._skipped(looks)

    assert skipped([2, 3, 5]) == {"calls": 4, "without": 1}
    assert skipped([10, 20, 30], 10) == skipped([None] * 3) == {"calls": 3, "without": 0}


@pytest.mark.parametrize(
    "name, public",
    [
        ("mindspore.nn.optim.adam.Adam", "mindspore.nn.Adam"),
        ("ms_adam.optimizer.AdamW", "ms_adam.AdamW"),
        ("ms_adam.mint.AdamW", "ms_adam.mint.AdamW"),
        ("own.Adam", "own.Adam"),
    ],
)
def test_classes_are_called_as_they_are_imported(name, public):
    assert verdict.public_name(name) == public
    if not name.startswith("own"):
        assert targets.load_callable(name) is targets.load_callable(public)


@pytest.mark.parametrize("name", [name for name in replacing.REPLACED if "mindspore." in name])
def test_a_replacement_has_the_defaults_of_the_class(name):
    found = replacing.REPLACED[name]
    theirs, ours = (targets.find(it).parameters for it in (name, found.name))
    shared = [argument for argument in theirs if argument in ours]
    assert {"weight_decay", "eps"} <= set(shared)
    for argument in shared:
        assert found.defaults.get(argument, ours[argument].default) == theirs[argument].default


@pytest.mark.parametrize(
    "name, options",
    [
        ("mindspore.nn.optim.adam.Adam", {"use_nesterov": True}),
        ("mindspore.nn.optim.adam.Adam", {"use_nesterov": True, "use_amsgrad": True}),
        ("mindspore.experimental.optim.adam.Adam", {"amsgrad": True}),
    ],
)
def test_a_replacement_computes_what_the_class_computes(name, options):
    """nn.Adam ignores use_nesterov under AMSGrad, experimental.optim.Adam ignores amsgrad."""
    kind = targets.load_callable(name)
    betas = {"beta2": 0.5} if "beta2" in targets.find(name).parameters else {"betas": (0.9, 0.5)}
    weights = []
    for replaced in (False, True):
        weight = Parameter(Tensor(np.zeros(3), ms.float32), name="w")
        given = {"params": [weight], **betas, **options}
        optimizer = kind(**given)
        if replaced:
            optimizer = replacing.replacement(kind, (), given, "epsilon_hat")
        for size in (1.0, 0.1, -0.2):  # the second moment falls
            optimizer((Tensor(np.full(3, size), ms.float32),))
        weights.append(weight.asnumpy())
    assert not np.array_equal(weights[0], np.zeros(3))
    # Five roundings in each of three steps.
    np.testing.assert_allclose(weights[1], weights[0], rtol=15 * 2.0**-24)


@pytest.mark.parametrize(
    "line, changed",
    [
        (
            "Model(net, loss, nn.Adam(net.trainable_params(), 0.1), metrics={'acc'})",
            "Model(net, loss, ms_adam.Adam(net.trainable_params(), 0.1, epsilon_hat=True), "
            "metrics={'acc'})",
        ),
        ("o = Adam(params)  # (rate)", "o = ms_adam.Adam(params, epsilon_hat=True)  # (rate)"),
        ("o = nn.Adam(net.trainable_params(),", "ms_adam.Adam(..., epsilon_hat=True)"),
        ("o = OurAdam(params)", "ms_adam.Adam(..., epsilon_hat=True)"),
    ],
)
def test_the_line_to_change(line, changed):
    found = {"class": "mindspore.nn.optim.adam.Adam", "name": "mindspore.nn.Adam", "looks": 1}
    lines = verdict.lines({**found, "at": ["train.py:3", line], "given": {}})
    assert lines[-1] == f"+ {changed}  # what it computes now"


def test_what_the_script_gives_is_not_added_to_its_line():
    name = "mindspore.nn.optim.adam.AdamWeightDecay"
    found = {"class": name, "name": "mindspore.nn.AdamWeightDecay", "looks": 1}
    line = "nn.AdamWeightDecay(params, eps=1e-8)"
    lines = verdict.lines({**found, "at": ["train.py:3", line], "given": {"eps": 1e-8}})
    added = "ms_adam.AdamW(params, eps=1e-8, weight_decay=0.0"
    assert [text.partition("  #")[0] for text in lines[-2:]] == [
        f"+ {added})",
        f"+ {added}, bias_correction=False)",
    ]


def test_arguments_are_named_in_the_order_of_their_class():
    class Own:
        def __init__(self, learning_rate, params, *, eps=1e-8):
            pass

    assert account.bound(Own, (0.1, []), {"eps": 1e-6}) == {
        "learning_rate": 0.1,
        "params": [],
        "eps": 1e-6,
    }


def test_records_are_read_in_the_order_of_processes_and_without_a_torn_line(tmp_path):
    folder = tmp_path / study.RECORDS
    folder.mkdir()
    for process, numbers in ((10, (1, 0)), (9, (0,))):
        made = [json.dumps({"event": "optimizer", "optimizer": n, "made": n}) for n in numbers]
        (folder / f"{process}.jsonl").write_text("\n".join([*made, '{"event": "lo']))
    found = study.records(tmp_path)
    assert [(one["process"], one["made"]) for one in found] == [("9", 0), ("10", 0), ("10", 1)]


def test_not_finite_quantities_are_named():
    made = part(ADAM)
    assert step.not_finite(made) == []
    bad = made._replace(gradient=np.array([np.nan]), moment2_after=np.array([np.inf]))
    assert step.not_finite(bad) == ["gradient", "moment2"]


def test_looks_take_their_share_of_the_time():
    """A clock made here: a call takes 1 s, a look at it as long."""
    clock = [0.0]
    budget = Budget(None, None, lambda: clock[0])
    schedule = Schedule(budget)
    for _ in range(2000):
        due, budget.entered = schedule.due(), clock[0]
        schedule.begin()
        clock[0] += 1.0
        if due:
            clock[0] += 1.0
            budget.ours += 1.0
            schedule.looked(1.0, True)
    assert schedule.looks == pytest.approx(2000 * SHARE, rel=0.05)
    assert schedule.period() == pytest.approx(1.0)


def test_a_wait_counts_up_to_the_time_of_a_step():
    """Steps of 1 s, of which a look waits for 0.4 s; the first builds kernels for 9 s."""
    clock = [0.0]
    budget = Budget(1, None, lambda: clock[0])
    schedule = Schedule(budget)
    counted = []
    for waited in (9.0, 0.4, 0.4, 5.0):
        budget.entered = clock[0]
        schedule.begin()
        clock[0] += 0.6 + waited
        budget.ours += waited
        budget.waiting += waited
        schedule.looked(0.0, True, waited)
        counted.append(budget.watching())
    assert np.diff([0.0, *counted]) == pytest.approx([0.0, 0.4, 0.4, 1.0])
    assert schedule.period() == pytest.approx(1.0)  # of the second and third; the last is open


def test_what_a_first_call_adds_is_no_time_of_the_script():
    """Steps of 1 s; that the optimizer is described, 5 s, comes between clock and first step."""
    clock = [0.0]
    budget = Budget(0, None, lambda: clock[0])
    schedule = Schedule(budget)
    for described in (5.0, 0.0, 0.0):
        budget.entered = clock[0]
        clock[0] += described
        schedule.begin()
        schedule.waited(0.0)
        budget.ours += described
        clock[0] += 1.0
    assert budget.watching() == 5.0 and schedule.period() == 1.0


def test_waits_for_an_optimizer_that_is_never_called_keep_to_the_share():
    """Steps of 0.5 s, and 0.1 s more if gradients are waited for, as `Watch.differentiation` does.

    Looks at the other optimizer become fewer; waits in between are for nothing, and count too.
    """
    clock = [0.0]
    budget = Budget(None, None, lambda: clock[0])
    used, unused = Schedule(budget), Schedule(budget)
    vain = 0
    for _ in range(3000):
        due = [one for one in (used, unused) if one.allowed()]
        for one in due:
            one.decided = True
        waited = 0.1 if due else 0.0
        clock[0] += 0.5 + waited
        budget.ours += waited
        budget.waiting += waited
        looked, budget.entered = used.due(), clock[0]
        used.begin()
        if looked:
            used.looked(0.0, True, waited)
        else:
            used.waited(waited)
            vain += bool(due)
    assert vain > 10 and used.looks > 100
    own = clock[0] - budget.watching()
    assert budget.waiting - 0.1 == pytest.approx(budget.waited)  # the first builds kernels
    assert budget.waited <= PROMISED * own


def test_what_a_wrapper_costs_is_not_negative_beside_other_work(tmp_path, monkeypatch):
    watch = Watch({"folder": tmp_path, "every": 0, "calls": None, "replace": None})
    batches = iter(
        [9.0, 3.0, 9.0, 3.0, 9.0, 3.0, 1.0, 3.0, 1.0, 5.0]
    )  # without and with it, in turns
    times = itertools.chain.from_iterable((0.0, seconds) for seconds in batches)
    monkeypatch.setattr(follow.time, "perf_counter", lambda: next(times))
    assert watch.cost_of_passing() == (3.0 - 1.0) / 100


def test_a_graph_between_gradients_and_optimizer_belongs_to_the_tail(tmp_path):
    watch = Watch({"folder": tmp_path, "every": 1, "calls": None, "replace": None})
    tails, optimizer = [], object()
    watch.followed[id(optimizer)] = SimpleNamespace(
        schedule=Schedule(watch.budget),
        stepped_by=None,
        begin=lambda: None,
        before=lambda given: given is not None,
        wait=lambda: None,
        after=lambda schedule, seconds: tails.append(seconds["tail"]) or True,
    )

    def graph():
        watch.graph(Schedule(watch.budget), lambda: time.sleep(0.2), [id(optimizer)])

    def step():
        watch.call(optimizer, lambda: None, ((),), {})

    watch.differentiation(SimpleNamespace(sync=lambda: None), lambda: None)
    graph()
    step()
    graph()  # which may have computed the gradients
    step()
    step()
    assert tails[0] >= 0.2 > tails[1] >= 0 and tails[2] is None


def test_cheap_looks_become_fewer_and_idle_ones_rare():
    schedule = Schedule(Budget(None, None))
    idle = Schedule(Budget(1, None))
    looked_at = []
    for call in range(1, 1025):
        for one, stepped in ((schedule, True), (idle, False)):
            if one.due():
                looked_at += [call] * stepped
                one.begin()
                one.looked(0.0, stepped)
            else:
                one.begin()
    assert looked_at[:100] == list(range(1, 101)) and 250 < len(looked_at) < 400
    assert IDLE + 6 < idle.looks < IDLE + 12  # after 3, at 6, 12, 24, ...


@pytest.mark.parametrize("callees", [1, 30])
@pytest.mark.parametrize("step", [1e-4, 1e-2, 1.0])
def test_watching_keeps_to_its_share_once_a_run_is_long_enough(step, callees):
    """Looks cost up to three times what the one before did; wrappers take 3% of a short step."""
    now, rng = [0.0], np.random.default_rng(0)
    budget = Budget(None, None, lambda: now[0])
    counter = SimpleNamespace(passed=0, each=3e-6)
    budget.passing.append(counter)
    schedules = [Schedule(budget) for _ in range(callees)]
    held, dearest = 0, 0.0
    for call in range(3000):
        schedule = schedules[call % callees]
        due = schedule.due()
        schedule.begin()
        counter.passed += 1
        now[0] += step + counter.each
        if due:
            cost = 5e-3 * rng.uniform(0.5, 1.5)
            dearest = max(dearest, cost)
            now[0] += cost
            budget.ours += cost
            schedule.looked(cost, True)
        run = budget.taken()
        own = run["seconds"] - run["watching"]
        if own > max(run["once"] / PROMISED, 100 * dearest):
            held += 1
            assert run["watching"] <= PROMISED * own
    looked_at = sum(schedule.looks for schedule in schedules)
    assert held or own < 100 * dearest
    assert looked_at >= min(callees, FIRST)
    assert looked_at > FIRST or step < 1e-3


def looks(weights):
    kept = [parting.base64.b64encode(np.array(w, "<f4").tobytes()).decode() for w in weights]
    return {
        "looks": [
            {"call": call, "gradients": "given", "parameters": [["w", 1, 1, 1, w, kept[0]]]}
            for call, w in enumerate(kept, 1)
        ]
    }


def test_two_runs_part_at_the_first_call_beyond_the_tolerance():
    one = looks([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    other = looks([[1.0, 2.0], [1.0, 2.00002], [1.0, 2.1]])
    found = parting.parted(one, other)
    assert found["calls"] == 3
    assert (found["bits"]["call"], found["beyond"]["call"]) == (2, 3)
    assert found["farthest"]["distance"] == pytest.approx(0.1 / 2.1, rel=1e-6)
    assert parting.all_parted([one], [one])["sentence"].startswith("The two runs are equal")
