"""Seeds go to the lines of open claims, as long as the minutes last."""

import numpy as np
import pytest
from lab.studies.paper.paper_figures import contender, figure, ordering, outcome, scales

from ms_adam.lab.studies.paper.seeds import added
from ms_adam.lab.studies.paper.sweep import Outcome, sweep


def small(**scale):
    """Adam against AdaGrad is clear at once; against RMSProp it needs seeds."""
    ahead = {"relation": "ahead of", "first": "Adam"}
    claims = [
        {**ordering("ahead of"), "comparisons": [{**ahead, "second": second}]}
        for second in ("AdaGrad", "RMSProp")
    ]
    names = ("Adam", "AdaGrad", "RMSProp")
    return figure(
        claims=claims,
        optimizers=[contender(name, rates=(0.1,)) for name in names],
        seeds=list(range(1, 21)),
        scales=scales(**{"looks": [5, 8, 20], "trials": 1, "minutes": 100.0, **scale}),
    )


def end(spec, noise=0.1):
    rough = noise * np.random.default_rng([spec.seed, len(spec.contender.name)]).standard_normal()
    level = {"Adam": 0.0, "AdaGrad": 2.0, "RMSProp": 0.15}[spec.contender.name]
    return outcome(9, 9, 9, np.exp(level + rough))


def more(of, get=end, seeds=(), minutes=1.0):
    scale = of.scales.quick
    return added(of, scale, sweep(of, scale, get, dict(seeds)), minutes)


OPEN = {("L2", "Adam"): 8, ("L2", "RMSProp"): 8}


def test_only_the_lines_of_an_open_claim_get_the_seeds_of_the_next_look():
    assert more(small()) == OPEN
    assert set(more(small(), seeds=OPEN).values()) == {20}
    assert more(small(), seeds=dict.fromkeys(OPEN, 20)) == {}
    assert more(small(), lambda spec: end(spec, noise=0.01)) == {}  # all are decided


@pytest.mark.parametrize("minutes, wanted", [(5.9, {}), (6.0, OPEN)])
def test_the_minutes_are_a_limit(minutes, wanted):
    # 3 seeds more of 2 lines, a minute each
    assert more(small(minutes=minutes)) == wanted
    # What was added before counts: 24 more are needed.
    assert more(small(minutes=minutes + 23), seeds=OPEN) == {}
    assert bool(more(small(minutes=30.0), seeds=OPEN))


def test_a_hopeless_claim_gets_no_seeds():
    def level(spec):
        ratio = 1 + 0.1 * (-1) ** spec.seed if spec.contender.name == "RMSProp" else 1
        return end(spec, 0.01) if spec.contender.name == "AdaGrad" else outcome(9, 9, 9, ratio)

    assert more(small(), level) == {}


def test_more_seeds_and_a_stop_change_no_run():
    of, asked = small(), []

    def get(spec):
        asked.append((spec.contender.name, spec.learning_rate, spec.seed))
        return Outcome(end(spec).costs, 0, 0.0)

    sweep(of, of.scales.quick, get)
    first = set(asked)
    sweep(of, of.scales.quick, get, OPEN)
    assert first < set(asked)
    assert len(set(asked) - first) == 6
