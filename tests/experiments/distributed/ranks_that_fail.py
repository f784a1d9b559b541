"""A rank of test_launch.py: one raises, the others wait for it."""

import sys

from ms_adam.experiments.distributed.rank import serve


def work(job, ranks):
    ranks.meet()
    ranks.tell("met", count=ranks.count)
    ranks.meet()  # it is told before anybody fails
    if ranks.rank == job["raises"]:
        raise ValueError("there is no page 7")
    ranks.meet()


if __name__ == "__main__":
    sys.exit(serve(work))
