"""One rank of a data-parallel training: what all modules share that `launch` starts."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Callable

from ms_adam.lab.errors import UserError
from ms_adam.lab.run.worker import enter, told
from ms_adam.lab.studies.ranks.launch import DONE, EVENTS, JOB, SCHEDULER, end_with_parent


class Ranks:
    """This rank among the others.

    Attributes:
        rank, count: Which one, of how many.
        folder: That of the launch.
    """

    def __init__(self, folder: Path, rank: int, count: int):
        self.folder, self.rank, self.count = folder, rank, count

    def meet(self) -> None:
        """Waits until all ranks are here."""
        import mindspore
        from mindspore import ops

        if self.count > 1:
            ops.AllReduce()(mindspore.Tensor([1.0], mindspore.float32)).asnumpy()

    def tell(self, event: str, **values) -> None:
        """Rank 0 tells the process that launched; the others keep still."""
        if self.rank == 0:
            with open(self.folder / EVENTS, "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"event": event, **values}) + "\n")


def serve(work: Callable[[dict, Ranks], None]) -> int:
    """Joins the other ranks in the mode that the job names, does the job, and tells how it went.

    If it fails the process ends with status 1, and msrun kills the other ranks.
    """
    end_with_parent()  # msrun, which ends with the process that launched it
    folder = Path(sys.argv[1])
    # msrun runs the module once more as its scheduler, which stays in `_join`, and calls it rank 0.
    name = SCHEDULER if os.environ["MS_ROLE"] == "MS_SCHED" else os.environ["RANK_ID"]
    _write(folder / f"process_{name}", str(os.getpid()))
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    try:
        _join(job["mode"])
        from mindspore import communication

        work(job, Ranks(folder, communication.get_rank(), communication.get_group_size()))
    except (
        Exception
    ) as error:  # the boundary of the process: told to the launcher, trace to the log
        traceback.print_exc()
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        message = kind + told(error)
        _write(folder / f"ended_{name}.json", json.dumps(message))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # at once: MindSpore would first wait 30 s for the ranks that wait for this one
    _write(folder / f"ended_{name}.json", json.dumps(DONE))
    return 0


def _join(mode: str) -> None:
    enter(mode)
    import mindspore
    from mindspore import communication

    communication.init()
    mindspore.set_auto_parallel_context(
        parallel_mode="data_parallel",
        gradients_mean=True,
        device_num=communication.get_group_size(),
    )


def _write(path: Path, text: str) -> None:
    """Whole or not at all, for a reader who looks at any time."""
    unfinished = path.with_name(f"unfinished_{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
