"""Gradients that are rounding noise: recognised, named apart, and no hiding place for faults."""

import types
from pathlib import Path

import numpy as np
import pytest
import yaml

from ms_adam.lab.studies.compare import judge, run, sides
from ms_adam.lab.studies.compare.config import load_comparison
from ms_adam.lab.studies.compare.distances import Distances
from ms_adam.lab.studies.compare.noise import (
    FACTOR,
    SAMPLES,
    Noise,
    Sampler,
    of_both,
    sampled_steps,
)
from ms_adam.lab.studies.compare.record import Record

NETWORKS = Path(__file__).with_name("attention.py")
STEPS = 8
QKV = "qkv.bias"


def sampled(gradients_at, weights, steps=4):
    """The noise of a function of float32 weights, at weights that move a little."""
    weights = np.asarray(weights, np.float32)
    sampler = Sampler(steps, [gradients_at([weights])[0].shape])
    random = np.random.default_rng(3)
    for step in range(steps):
        sampler.see(gradients_at([weights]))
        if step in sampled_steps(steps):
            sampler.sample([weights], ["float32"], gradients_at)
        weights = weights + np.float32(1e-3) * random.standard_normal(len(weights), np.float32)
    return sampler.found()


def shifted_softmax(weights):
    """Gradients of c . softmax(w + b) for w, for 1e-9 times itself, and, last, for the shift b."""
    w = np.asarray(weights[0], np.float32)
    p = np.exp(w - w.max())
    p /= p.sum()
    c = np.linspace(-1.0, 2.0, len(w), dtype=np.float32)
    slopes = p * (c - p @ c)
    return [np.array([*slopes, *(np.float32(1e-9) * slopes), slopes.sum()])]


# ---- what is noise


def test_a_sum_that_is_zero_but_for_rounding_is_noise_and_small_gradients_are_not():
    found = sampled(shifted_softmax, np.random.default_rng(0).standard_normal(50))
    (noise,) = found.elements()
    assert noise[-1] and not noise[:-1].any()
    # the small gradients lie below the noise: the size would not tell them apart
    assert found.size[0][50:100].max() < found.size[0][-1]


@pytest.mark.parametrize("steps", [1, 2, 7, 16, 300])
def test_steps_are_sampled_evenly_and_weights_nudged_often_enough(steps):
    chosen = sampled_steps(steps)
    assert len(chosen) == min(steps, SAMPLES) and {0, steps - 1} <= set(chosen)
    calls = []
    sampler = Sampler(steps, [(3,)])
    for _ in chosen:
        sampler.sample([np.ones(3)], ["float32"], lambda w: calls.append(w) or [w[0]])
    nudged = [w for (w,) in calls if np.any(w != 1)]
    assert SAMPLES <= len(nudged) < 2 * SAMPLES
    assert len(calls) == len(nudged) + 2 * len(chosen)
    # one unit in the last place of 1, in float32, up or down
    np.testing.assert_array_equal(np.abs(np.array(nudged) - 1), 2.0**-23)


def test_what_does_not_repeat_itself_is_not_noise():
    random = np.random.default_rng(1)
    (noise,) = sampled(lambda _: [random.standard_normal(20)], np.ones(3)).elements()
    assert not noise.any()


def test_what_is_not_finite_in_any_step_is_not_noise():
    for value in (np.nan, np.inf):
        sampler = Sampler(1, [(2,)])
        sampler.sample([np.ones(2)], ["float32"], lambda w: [w[0] - 1])
        sampler.see([np.array([1e-9, value])])
        (noise,) = sampler.found().elements()
        assert noise.tolist() == [True, False]


def test_noise_on_both_sides_or_noise_and_zero():
    def measured(*pairs):
        size, change = np.array(pairs).T
        return Noise([size], [change])

    noise, zero, genuine = (FACTOR, 1.0), (0.0, 0.0), (FACTOR * 1.001, 1.0)
    kinds = [noise, zero, genuine]
    one = measured(*np.repeat(kinds, 3, axis=0))
    other = measured(*kinds * 3)
    (found,) = of_both(one, other)
    assert found.tolist() == [True, True, False, True, False, False, False, False, False]


def test_noise_is_written_and_read(tmp_path):
    noise = Noise([np.arange(3.0), np.ones((2, 2))], [np.zeros(3), np.full((2, 2), 0.5)])
    noise.save(tmp_path)
    for name, listed in Noise.load(tmp_path)._asdict().items():
        assert len(listed) == 2
        for a, b in zip(getattr(noise, name), listed):
            np.testing.assert_array_equal(a, b)


# ---- what is made of it


def test_judged_leaves_out_noise_and_all_else_does_not():
    found = Distances.empty(["w"], ["gradient", "parameter"], 1)
    recorded = {"gradient": np.array([1.0, 2.0, 1e-9]), "parameter": np.array([0.1, 0.1, 3.0])}
    other = {"gradient": np.array([1.0, 2.002, -1e-9]), "parameter": np.array([0.1, 0.1, 0.0])}
    mask, start = [np.array([False, False, True])], [np.zeros(3)]
    dtypes = dict.fromkeys(recorded, ["float32"])
    record = types.SimpleNamespace(
        read=lambda step, quantity: [recorded[quantity]], initial=lambda: start, dtypes=dtypes
    )
    arrays = {quantity: [array] for quantity, array in other.items()}
    left_out = dict.fromkeys(recorded, mask)
    found.measure(0, record, None, arrays, dtypes, start, left_out)
    assert found.at("gradient", 0, 0)["judged"] == pytest.approx(0.002 / 2.002)
    assert found.at("gradient", 0, 0)["different"] == 2
    assert (found.relative("parameter")[0, 0], found.judged("parameter")[0, 0]) == (1.0, 0.0)
    assert np.isnan(found.relative("loss")).all()


# ---- in networks


class Quiet:
    def progress(self, done):
        pass


@pytest.fixture
def noise_of(tmp_path):
    """The noise of the first run of a side, in this process, by the parameter's name."""

    def first_run(factory, **options):
        import mindspore  # noqa: F401  before what a side imports

        side = {"mode": "graph", "optimizer": "ms_adam.Adam"}
        path = tmp_path / "compare.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "title": "noise",
                    "factory": f"{NETWORKS}:{factory}",
                    "factory_options": options,
                    "training": {"steps": STEPS, "batch_size": 16, "seed": 1},
                    "sides": {"a": side, "b": side},
                }
            )
        )
        job = {"record": str(tmp_path / "record"), "limit_mb": 10}

        def start():
            return sides._Pass(load_comparison(path), "a", tmp_path / "initial.npz")

        sampler = sides._first_run(start(), job, Quiet())
        record = Record(tmp_path / "record")
        start().sample_noise(record, sampler, Quiet())
        return dict(zip(record.names, sampler.found().elements()))

    return first_run


def test_bias_before_batch_normalization(noise_of):
    found = noise_of("normalized")
    assert found.pop("first.bias").all()
    assert not any(mask.any() for mask in found.values())


def test_dropout_is_not_noise(noise_of):
    assert not any(mask.any() for mask in noise_of("normalized", keep=0.5).values())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs of trainings of a small attention network: clean ones, and ones with a fault."""
    folder = tmp_path_factory.mktemp("noise")

    def side(mode="pynative", changes=None, **options):
        # eps below the noise, which is 1e-9 here: Adam makes whole steps of it.
        return {
            "mode": mode,
            "optimizer": "ms_adam.Adam",
            "changes": changes or {},
            "options": {"learning_rate": 0.001, "eps": 1e-13, **options},
        }

    config = {
        "title": "attention",
        "factory": f"{NETWORKS}:attention",
        "training": {"steps": STEPS, "batch_size": 16, "seed": 1},
        "sides": {
            "clean": side(),
            "graph": side("graph"),
            "eps": side(eps=1e-10),
            "beta2": side(beta2=0.998),
            "scaled": side(changes={"scale": 1.01}),
            "pulled": side(changes={"pull": 1e-6}),
            "pushed": side(changes={"pull": -1e-6}),
        },
        "pairs": [
            {"sides": ["graph", "clean"]},
            {"sides": ["clean", "graph"], "tolerance": 0},
            *({"sides": ["clean", name]} for name in ("eps", "beta2", "scaled", "pulled")),
            {"sides": ["pulled", "pushed"]},
        ],
    }
    (folder / "compare.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    content = run.compare(load_comparison(folder / "compare.yaml"), folder / "out", lambda *_: None)
    return {tuple(pair["sides"]): pair for pair in content["results"][0]["pairs"]}


def test_a_clean_pair_agrees_and_the_key_bias_is_named_apart(pairs):
    pair = pairs["graph", "clean"]
    assert pair["status"] == judge.HELD
    (noise,) = pair["gradient_is_rounding_noise"]
    assert (noise["parameter"], noise["elements"], noise["of"]) == (QKV, 8, 24)
    assert noise["gradient"] <= FACTOR * noise["nudged_by"]
    # It would have decided: the tensor is far beyond the tolerance.
    assert noise["parameter_apart"] > 10 * pair["tolerance"]["parameter"]


def test_a_tolerance_of_nothing_leaves_nothing_out(pairs):
    pair = pairs["clean", "graph"]
    assert pair["status"] == judge.PARTED
    assert pair["gradient_is_rounding_noise"][0]["parameter"] == QKV
    for distances in (*pair["free"].values(), *pair["replayed"].values()):
        assert distances["judged"] == distances["relative"]
    apart = pairs["graph", "clean"]["free"]["parameter"]
    assert max(apart["judged"]) < 1e-3 < max(apart["relative"])


def test_a_wrong_epsilon_is_found_even_where_only_noise_shows_it(pairs):
    pair = pairs["clean", "eps"]
    assert (pair["status"], pair["cause"]) == (judge.PARTED, judge.UPDATE)
    assert pair["update"]["parameter"] == QKV


def test_a_wrong_beta2_is_found(pairs):
    pair = pairs["clean", "beta2"]
    assert (pair["status"], pair["cause"]) == (judge.PARTED, judge.UPDATE)
    # v = (1 - beta2) g^2 in the first step: 0.001 against 0.002
    assert pair["update"]["relative"] == pytest.approx(0.5, rel=1e-4)


def test_a_fault_in_another_tensor_is_found(pairs):
    pair = pairs["clean", "scaled"]
    assert (pair["status"], pair["cause"]) == (judge.PARTED, judge.NETWORK)
    assert pair["first"]["step"] == 1
    assert [noise["parameter"] for noise in pair["gradient_is_rounding_noise"]] == [QKV]


@pytest.mark.parametrize("pair", [("clean", "pulled"), ("pulled", "pushed")])
def test_a_small_genuine_gradient_is_no_noise(pairs, pair):
    """1e-6 of its siblings, in the very elements that are noise without it."""
    assert pairs[pair]["gradient_is_rounding_noise"] == []
    assert pairs[pair]["status"] == judge.PARTED
    assert pairs[pair]["first"]["parameter"] == QKV
