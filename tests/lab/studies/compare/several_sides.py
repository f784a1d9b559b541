"""A rank of test_compare_ranks.py: trains several sides, each as in a launch of its own."""

import sys

from ms_adam.lab.run.rank import serve
from ms_adam.lab.run.worker import enter
from ms_adam.lab.studies.compare import sides


def work(job, ranks):
    for one in job["jobs"]:
        enter(one["mode"], one["context"])
        sides.work(one, ranks, ranks)


if __name__ == "__main__":
    sys.exit(serve(work))
