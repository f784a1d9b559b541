"""One training under several sides, step by step: where do they part, and what parted first?

The way through this package, each step in a module of its own:

    config      reads and checks the YAML file
    factories   what is trained: the built-in network on MNIST images, or a function of the user's
    optimizers  one face for MindSpore's optimizers, ours and NumPy's: update, state, scalars
    sides       the process that trains one side, or replays another side's gradients through it
    record      what a side leaves on disk, step by step
    noise       which elements of a gradient are rounding noise
    distances   how far two arrays, and two records, are apart
    judge       the first parting, its cause, and the sentence that says so
    run         starts the processes, compares what they left, writes compare.json

Only factories, optimizers and sides import MindSpore.
"""
