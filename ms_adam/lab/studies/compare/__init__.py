"""Compares one training under several sides, step by step: the first parting and its cause.

    config      reads and checks the YAML file
    factories   the training: the built-in network on MNIST images, or a function of the user's, and
                the optimizer
    recipe      the update that an optimizer states
    sides       the processes of a side: training, and judging the gradients of a record
    parallel    what several ranks do in the training of a side
    record      the files of a side, step by step
    checks      each step of a record against recipe and network, with bounds on roundings
    distances   the distances of two records
    judge       the first parting, its cause, and a sentence on both
    msprobe     reads a dump of msProbe as a record
    run         starts the processes, compares their records, writes compare.json

Only factories, network and sides import MindSpore.
"""
