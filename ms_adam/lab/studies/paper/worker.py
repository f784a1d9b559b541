"""The process that trains: ``python -m ms_adam.lab.studies.paper.worker``.

Its job is some figures at one scale, and other workers may have the same job: each takes a line of
a figure, an optimizer in a variant, that nobody has taken. It makes those runs of the line that the
cache does not have, in the order of `sweep.sweep_line`, puts each into the cache as soon as it is
done, and tells, an object a line:

    {"event": "step", "figure", "label", "done", "steps"}    now and then: steps of this run
    {"event": "run", "figure", "label", "done", "steps"}     it is done and in the cache
    {"event": "failed", "message"}                           the last line, if something went wrong
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Optional

from ms_adam.lab.run.worker import Events, enter, serve

_SECONDS_BETWEEN_REPORTS = 0.2


def work(job: dict, events: Events) -> None:
    """Makes all runs of figures that nobody else makes.

    Args:
        job: ``figures`` (the configs as plain values), ``scale`` (its name), ``cache`` (the
            folder).
        events: Where to report.
    """
    # Not at the top: what these print on being imported belongs in the log.
    from ms_adam.lab.studies.paper.cache import DEVICE_TARGET, Cache, surroundings

    # One thread: two runs at a time on two cores are done sooner than two in turn on both, and the
    # number of cores does not decide how a sum is split.
    enter(
        "graph",
        {"device_target": DEVICE_TARGET, "inter_op_parallel_num": 1, "runtime_num_threads": 1},
    )
    from ms_adam.lab.studies.paper.config import PaperFigure, scale_of
    from ms_adam.lab.studies.paper.data import load_examples
    from ms_adam.lab.studies.paper.sweep import Outcome, Spec, lines_of, sweep_line
    from ms_adam.lab.studies.paper.training import Trainer

    cache = Cache(Path(job["cache"]))
    for content in job["figures"]:
        figure = PaperFigure.model_validate(content)
        scale = scale_of(figure, job["scale"])
        examples = load_examples(figure, scale.examples)
        around = surroundings(examples.fingerprint)
        trainer: Optional[Trainer] = None  # of the line at work; an earlier one's memory is let go

        def get(spec: Spec) -> Outcome:
            nonlocal trainer
            digest = spec.digest(figure, scale, around)
            known = cache.load(digest)
            if known is not None:
                return known
            if trainer is None:
                trainer = Trainer(figure, scale, spec.variant, spec.contender, examples)
            steps = len(examples) // figure.batch_size * scale.epochs
            last = 0.0

            def told(done: int) -> None:
                nonlocal last
                now = time.monotonic()
                if now - last >= _SECONDS_BETWEEN_REPORTS:
                    last = now
                    events.send(
                        "step", figure=figure.name, label=spec.label, done=done, steps=steps
                    )

            outcome = trainer.run(spec.learning_rate, spec.seed, told)
            cache.store(digest, outcome)
            events.send("run", figure=figure.name, label=spec.label, done=steps, steps=steps)
            return outcome

        for variant, contender in lines_of(figure):
            trainer = None
            first = Spec(variant, contender, contender.trials(scale.trials)[0], figure.seeds[0])
            with cache.taken(first.digest(figure, scale, around)) as taken:
                if taken:
                    sweep_line(figure, scale, variant, contender, get)


if __name__ == "__main__":
    sys.exit(serve(work))
