"""Compares one training under several sides, step by step: the first parting and its cause.

    config      reads and checks the YAML file
    factories   the training: the built-in network on MNIST images, or a function of the user's, and
                the optimizer
    sides       the process that trains one side, or replays another side's gradients through it
    record      the files of a side, step by step
    noise       the elements of a gradient that are rounding noise
    distances   the distances of two records
    judge       the first parting, its cause, and a sentence on both
    run         starts the processes, compares their records, writes compare.json

Only factories, network and sides import MindSpore.
"""
