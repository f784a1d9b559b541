"""Steps judged in float64: each formula is told from the others, and shares are those made here."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ms_adam.lab.measure import spacing
from ms_adam.lab.studies.watch import parting, step, verdict
from ms_adam.lab.studies.watch.reading import stride
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
    spread = {"median": 1e-6, "most": 2e-6, "call": 1}
    account = {
        "name": "Optimizer",
        "looks": 1,
        "moments": ["float32"],
        "formula": "Algorithm 1, decoupled decay",
        "alike": ["Algorithm 1, L2"],
        "own": spread,
        "paper": spread,
    }
    account.update(dict.fromkeys(("not_finite", "lost", "underflowed", "stalled", "epsilon")))
    wanted = "Optimizer computes Algorithm 1, {}: its updates are at most 2.0e-6 from it."
    assert verdict.verdict(account) == wanted.format("L2 or decoupled decay")
    told = {**account, "alike": ["epsilon-hat, decoupled decay"]}
    assert verdict.verdict(told) == wanted.format("decoupled decay")


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
        due = schedule.due()
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
        schedule.begin()
        clock[0] += 0.6 + waited
        budget.ours += waited
        budget.waiting += waited
        schedule.looked(0.0, True, waited)
        counted.append(budget.watching())
    assert np.diff([0.0, *counted]) == pytest.approx([0.0, 0.4, 0.4, 1.0])
    assert schedule.period() == pytest.approx(1.0)  # of the second and third; the last is open


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
