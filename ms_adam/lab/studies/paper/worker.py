"""The worker that trains. Its job is some figures at one scale.

Other workers may have the same job. Each takes a line of a figure, an optimizer in a variant, that
no other has taken, and makes those runs of it that the cache lacks, in the order of
`sweep.sweep_line`. Each run is stored in the cache when it is finished. Its events, besides those
of `ms_adam.lab.run.worker`:

    {"event": "progress", "figure", "label", "done", "steps"}    steps of the current run
    {"event": "run", "figure", "label", "done", "steps"}         it is finished and in the cache
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from ms_adam.lab.run.worker import Events, enter
from ms_adam.lab.studies.paper.cache import DEVICE_TARGET, Cache, CachedFigure
from ms_adam.lab.studies.paper.config import Contender, PaperFigure, Variant
from ms_adam.lab.studies.paper.sweep import Outcome, Spec, lines_of
from ms_adam.lab.studies.paper.training import Trainer


def work(job: dict[str, Any], events: Events) -> None:
    """Makes all runs of figures that no other worker makes.

    Args:
        job: ``figures`` (the configs as plain values), ``scale`` (its name), ``cache`` (the
            folder).
        events: Reports progress.
    """
    # One thread: two runs at a time on two cores take less time than two in turn on both, and the
    # number of cores does not decide how a sum is split.
    enter(
        "graph",
        {"device_target": DEVICE_TARGET, "inter_op_parallel_num": 1, "runtime_num_threads": 1},
    )
    cache = Cache(Path(job["cache"]))
    for content in job["figures"]:
        cached = CachedFigure(PaperFigure.model_validate(content), job["scale"], cache)
        for variant, contender in lines_of(cached.figure):
            with cached.taken(variant, contender) as taken:
                if taken:
                    _make_line(cached, variant, contender, events)


def _make_line(
    cached: CachedFigure, variant: Variant, contender: Contender, events: Events
) -> None:
    figure, steps = cached.figure, cached.steps
    trainer: Optional[Trainer] = None  # compiled only if a run is missing

    def make(spec: Spec) -> Outcome:
        nonlocal trainer
        trainer = trainer or Trainer(figure, cached.scale, variant, contender, cached.examples)
        told = {"figure": figure.name, "label": spec.label, "steps": steps}
        outcome = trainer.run(
            spec.learning_rate, spec.seed, lambda done: events.progress(done, **told)
        )
        cached.store(spec, outcome)
        events.send("run", done=steps, **told)
        return outcome

    cached.line(variant, contender, make)
