"""Trainings and paths of optimizers, described by YAML files and judged claim by claim.

A room for each kind, none of which knows another:

    images        each optimizer in each mode, held to float64 NumPy      ms-adam reproduce
    sparse_text   exact and lazy Adam on row-sparse gradients             ms-adam reproduce
    paper         the figures of Kingma & Ba 2015, section 6              ms-adam reproduce
    train         one training that can be stopped, and its killing       ms-adam train, kill-test
    trajectories  paths over functions, float64 and MindSpore             ms-adam visualize

Above them, kinds tells a config's kind and runner carries out what is of the first two. What rooms
share is beside them:

    config                 sections of a config, and how its YAML file is read
    data, text             images and snippets of text to train on
    problems, steps        a network, and one step of its training (MindSpore)
    mode_runs, processes   one worker process for each mode, started and listened to
    worker                 the worker's side: how it tells how it goes
    progress               what people see of that
    comparison, verdicts   finished runs beside each other; what a claim comes to
    results                the JSON that is written
"""

from ms_adam.lab.errors import UserError


class ExperimentError(UserError):
    """A config that can not be run, or a run that ended early."""
