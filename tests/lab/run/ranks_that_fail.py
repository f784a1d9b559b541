"""A rank of test_launch.py: one raises, the others wait for it; or all stay."""

import sys
import time

from ms_adam.lab.run.rank import serve


def work(job, ranks):
    ranks.meet()
    ranks.tell("met", count=ranks.count)
    ranks.meet()  # it is told before anybody fails
    if ranks.rank == job["raises"]:
        raise ValueError("there is no page 7")
    if job["raises"] == "nobody":
        time.sleep(600)
    ranks.meet()


if __name__ == "__main__":
    sys.exit(serve(work))
