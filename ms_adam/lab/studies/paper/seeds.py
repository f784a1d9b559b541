"""How many seeds each line runs on: more of them where a claim is still open.

All lines run on the seeds of the scale's first look. Then the claims are judged; the lines of those
that are open get the seeds of the next look, the claims that need fewest first, as long as the
scale's ``minutes`` last. All of this follows from the finished runs and the config, so a study that
was stopped goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ms_adam.lab.studies.paper.cache import CachedFigure
from ms_adam.lab.studies.paper.claims import judge
from ms_adam.lab.studies.paper.config import PaperFigure, Scale
from ms_adam.lab.studies.paper.sweep import Key, Line, Outcome, Spec, lines_of


class Plan(NamedTuple):
    """What is known of a figure's runs so far."""

    seeds: dict[Key, int]  # of each line
    runs: int
    missing: int  # of these runs. More may follow if there are some


def plan(cached: CachedFigure) -> Plan:
    """Returns which runs a figure needs, as far as its finished runs say."""
    figure, scale = cached.figure, cached.scale
    seeds = {(of.label, who.called): scale.looks[0] for of, who in lines_of(figure)}
    missing: list[Spec] = []

    def make(spec: Spec) -> Outcome:
        missing.append(spec)
        return Outcome(np.array([np.inf]), 0, 0.0)  # the worst cost, so that the sweep goes on

    while True:
        lines = cached.lines(make, seeds)
        runs = sum(len(line.runs) for line in lines)
        more = {} if missing else added(figure, scale, lines, cached.steps * scale.step_ms / 6e4)
        if not more:
            return Plan(seeds, runs, len(missing))
        seeds.update(more)


def added(
    figure: PaperFigure, scale: Scale, lines: Sequence[Line], run_minutes: float
) -> dict[Key, int]:
    """Returns the lines that get more seeds, and how many they then have.

    The times are those that the config expects, not measured ones, so that every machine adds the
    same seeds.
    """
    runs_of_seed = scale.trials if figure.design == "grid" else 1
    seeds = {line.key: len(line.judged) for line in lines}
    spent = sum(count - scale.looks[0] for count in seeds.values()) * runs_of_seed * run_minutes
    found: dict[Key, int] = {}
    still_open = [judged for judged in judge(figure, scale, lines) if judged.wanted]
    for judged in sorted(still_open, key=lambda judged: judged.verdict.needed):
        now = {key: found.get(key, seeds[key]) for key in judged.wanted}
        look = next((look for look in scale.looks if look > min(now.values())), 0)
        wanted = {key: look for key, count in now.items() if count < look}
        cost = sum(look - now[key] for key in wanted) * runs_of_seed * run_minutes
        if spent + cost <= scale.minutes:
            spent += cost
            found.update(wanted)
    return found
