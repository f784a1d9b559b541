"""A rank of a data-parallel training: the code that all modules share that `launch` starts."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import numpy as np

from ms_adam.lab.run.launch import DONE, EVENTS, JOB, MSRUN, SCHEDULER, end_with_parent
from ms_adam.lab.run.results import write_json
from ms_adam.lab.run.worker import enter, message_of


class Ranks:
    """This rank among the others, which it joins; its number, and how many ranks there are.

    Args:
        folder: Of the launch.
        mode: "graph" or "pynative".
        context: As the options of `worker.enter`.
    """

    def __init__(self, folder: Path, mode: str, context: Optional[dict] = None):
        enter(mode, context)
        import mindspore
        from mindspore import communication, ops

        communication.init()
        self.folder = folder
        self.rank, self.count = communication.get_rank(), communication.get_group_size()
        mindspore.set_auto_parallel_context(
            parallel_mode="data_parallel", gradients_mean=True, device_num=self.count
        )
        self._all_reduce, self._all_gather = ops.AllReduce(), ops.AllGather()
        self._one = mindspore.Tensor([1.0], mindspore.float32)

    def meet(self) -> None:
        """Waits until all ranks have come here."""
        if self.count > 1:
            self._all_reduce(self._one).asnumpy()

    @contextlib.contextmanager
    def zero_first(self) -> Iterator[None]:
        """A context that rank 0 leaves before the others enter it."""
        if self.rank > 0:
            self.meet()
        yield
        if self.rank == 0:
            self.meet()

    def gather(self, row: np.ndarray) -> np.ndarray:
        """Returns the rows of all ranks, each of a rank, with their bits; they have one shape."""
        import mindspore

        # As int32: no dtype is rounded, and none lacks the operator.
        words = np.ascontiguousarray(row).view(np.int32)
        rows = self._all_gather(mindspore.Tensor(words)).asnumpy()
        return rows.view(row.dtype).reshape(self.count, -1)

    def tell(self, event: str, **values) -> None:
        """Sends an event to the launching process; only rank 0 does."""
        if self.rank == 0:
            with open(self.folder / EVENTS, "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"event": event, **values}) + "\n")

    def progress(self, done: int, **values) -> None:
        """Sends the event "progress", as `worker.Events` does."""
        self.tell("progress", done=done, **values)


def serve(work: Callable[[dict, Ranks], None]) -> int:
    """Joins the other ranks in the job's ``mode`` (and ``context``), does it, reports its end.

    After an error the process ends with status 1, and msrun kills the other ranks.
    """
    end_with_parent(int(os.environ[MSRUN]))  # which ends with the launching process
    folder = Path(sys.argv[1])
    # msrun runs the module once more as its scheduler, which stays in communication.init(), and
    # calls it rank 0.
    name = SCHEDULER if os.environ["MS_ROLE"] == "MS_SCHED" else os.environ["RANK_ID"]
    write_json(folder / f"process_{name}", os.getpid())
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    try:
        work(job, Ranks(folder, job["mode"], job.get("context")))
        end = DONE
    # The boundary of the process: the message goes to the launching process, the trace to the log.
    except Exception as error:
        traceback.print_exc()
        end = message_of(error)
    sys.stdout.flush()  # `launch` kills this process when all are done
    sys.stderr.flush()
    write_json(folder / f"ended_{name}.json", end)
    if end != DONE:
        os._exit(1)  # at once: MindSpore would first wait 30 s for ranks that wait for this one
    return 0
