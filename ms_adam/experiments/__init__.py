"""Trainings on real data, described by a YAML file and judged claim by claim.

The way through this package, each step in a module of its own:

    config      reads and checks the YAML file
    runner      starts one worker process for each MindSpore mode and shows progress
    worker      the process that trains; with data (images), problems (models), training (the loop)
                and shadow (float64 NumPy that follows a run)
    comparison  the numbers: runs against each other and against float64
    verdicts    the claims, each with its measured number and its limit

Only worker, problems and training import MindSpore.
"""

from ms_adam.errors import UserError


class ExperimentError(UserError):
    """A config that can not be run, or a run that ended early."""
