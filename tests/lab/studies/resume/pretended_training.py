"""A worker of the kill test that trains without MindSpore: it starts and steps at once."""

import time
from pathlib import Path

from ms_adam.lab.run.results import results, write_json
from ms_adam.lab.studies.resume.step_log import StepLog

STEPS = 100


def work(job, events):
    folder, every = Path(job["folder"]), job["config"]["checkpoints"]["every_steps"]
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    first = max((int(path.stem[5:]) for path in checkpoints.glob("step-*.ckpt")), default=0)
    if first:
        events.send("told", message="", resumed_after=first)
    (folder / "accuracy.csv").touch()
    with StepLog(folder / "loss.csv", ("step", "loss"), first) as log:
        for step in range(first + 1, STEPS + 1):
            time.sleep(0.002)
            log.write(step, 1 / step)
            events.send("progress", done=step)
            if step % every == 0:
                (checkpoints / f"step-{step:08d}.ckpt").touch()
    write_json(folder / "train.json", results([], ["CPU"]))
