"""The process that trains: ``python -m ms_adam.experiments.paper.worker``.

Its job is one figure at one scale. It makes the runs that the cache does not have, in the order of
`sweep.sweep`, puts each into the cache as soon as it is done, and tells, an object a line:

    {"event": "step", "label", "done", "steps"}              now and then: steps of this run
    {"event": "run", "label", "digest", "done", "steps"}     it is done and in the cache
    {"event": "failed", "message"}                           the last line, if something went wrong
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ms_adam.experiments.worker import Events, enter, serve

_SECONDS_BETWEEN_REPORTS = 0.2


def work(job: dict, events: Events) -> None:
    """Makes all runs of a figure.

    Args:
        job: ``figure`` (the config as plain values), ``scale`` (its name), ``cache`` (the folder).
        events: Where to report.
    """
    # Not at the top: what these print on being imported belongs in the log.
    from ms_adam.experiments.paper.cache import DEVICE_TARGET, Cache, surroundings

    enter("graph", {"device_target": DEVICE_TARGET})
    from ms_adam.experiments.paper.config import PaperFigure, scale_of
    from ms_adam.experiments.paper.data import load_examples
    from ms_adam.experiments.paper.sweep import Outcome, Spec, sweep
    from ms_adam.experiments.paper.training import Trainer

    figure = PaperFigure.model_validate(job["figure"])
    scale = scale_of(figure, job["scale"])
    examples = load_examples(figure, scale.examples)
    around = surroundings(examples.fingerprint)
    cache = Cache(Path(job["cache"]))
    trainers: dict[tuple, Trainer] = {}  # the one at work; an earlier one's memory is let go

    def get(spec: Spec) -> Outcome:
        digest = spec.digest(figure, scale, around)
        known = cache.load(digest)
        if known is not None:
            return known
        key = (spec.variant.label, spec.contender.called)
        if key not in trainers:
            trainers.clear()
            trainers[key] = Trainer(figure, scale, spec.variant, spec.contender, examples)
        steps = len(examples) // figure.batch_size * scale.epochs
        last = 0.0

        def told(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _SECONDS_BETWEEN_REPORTS:
                last = now
                events.send("step", label=spec.label, done=done, steps=steps)

        outcome = trainers[key].run(spec.learning_rate, spec.seed, told)
        cache.store(digest, outcome)
        events.send("run", label=spec.label, digest=digest, done=steps, steps=steps)
        return outcome

    sweep(figure, scale, get)


if __name__ == "__main__":
    sys.exit(serve(work))
