"""The process that trains in one mode; it speaks as `ms_adam.lab.run.worker` does."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from ms_adam.lab.run.worker import Events, enter, serve


def work(job: dict, events: Events) -> None:
    """Does all runs of one mode.

    Args:
        job: ``experiment`` (the config as plain values), ``mode``, ``reference`` (whether to do the
            float64 reference runs too) and ``folder`` (where to write).
        events: Where to report.
    """
    # Not at the top: what these print on being imported belongs in the log.
    import mindspore
    import numpy as np

    from ms_adam.lab.problems.images import load_split
    from ms_adam.lab.run.comparison import REFERENCE
    from ms_adam.lab.studies.images import training
    from ms_adam.lab.studies.images.config import Experiment

    enter(job["mode"])
    experiment = Experiment.model_validate(job["experiment"])
    data = experiment.data
    split = load_split(data.idx_directory, data.train, data.test, data.split_seed)
    optimizers = [*experiment.compare.optimizers, *([REFERENCE] if job["reference"] else [])]
    runs = itertools.product(optimizers, experiment.compare.seeds)
    for before, (optimizer, seed) in zip(itertools.count(0, experiment.steps), runs):

        def progress(done: int, before: int = before) -> None:
            events.progress(before + done)

        if optimizer == REFERENCE:
            run = training.train_reference(experiment, split, seed, progress)
        else:
            run = training.train(experiment, split, optimizer, seed, progress)
        name = f"{optimizer.replace(' ', '-')}_{job['mode']}_seed{seed}.npz"
        np.savez(Path(job["folder"]) / name, **run.arrays)
        events.send(
            "run",
            done=before + experiment.steps,
            optimizer=optimizer,
            mode=job["mode"],
            seed=seed,
            file=name,
            device_target=mindspore.get_context("device_target"),
            **run.facts,
        )


if __name__ == "__main__":
    sys.exit(serve(work))
