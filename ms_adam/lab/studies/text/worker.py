"""The process that trains on text in one mode; it speaks as `ms_adam.lab.run.worker` does."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ms_adam.lab.run.worker import Events, enter, serve


def work(job: dict, events: Events) -> None:
    """Does all runs of one mode.

    The sides of a seed take turns, an epoch each: their steps then meet the same moods of the
    machine, and their times can be compared.

    Args:
        job: ``experiment`` (the config as plain values), ``mode`` and ``folder``.
        events: Where to report.
    """
    # Not at the top: what these print on being imported belongs in the log.
    import mindspore
    import numpy as np

    from ms_adam.lab.studies.text.config import SIDES, TextExperiment
    from ms_adam.lab.studies.text.runner import prepare
    from ms_adam.lab.studies.text.training import TextTraining

    enter(job["mode"])
    experiment = TextExperiment.model_validate(job["experiment"])
    split = prepare(experiment)
    steps = 0

    def step_done() -> None:
        nonlocal steps
        steps += 1
        events.progress(steps)

    for seed in experiment.compare.seeds:
        trainings = {
            side: TextTraining(experiment, split, side, seed)
            for side in experiment.sides_of(job["mode"])
        }
        seconds = dict.fromkeys(trainings, 0.0)
        for _ in range(experiment.training.epochs):
            for side, training in trainings.items():
                started = time.perf_counter()
                training.epoch(step_done)
                seconds[side] += time.perf_counter() - started
        for side, training in trainings.items():
            file = f"{side}_seed{seed}.npz"
            np.savez(Path(job["folder"]) / file, **training.arrays())
            events.send(
                "run",
                done=steps,
                side=side,
                optimizer=SIDES[side].title,
                mode=job["mode"],
                seed=seed,
                file=file,
                seconds=seconds[side],
                device_target=mindspore.get_context("device_target"),
                **training.facts(),
            )


if __name__ == "__main__":
    sys.exit(serve(work))
