"""One training that can be stopped at any moment, and the test that kills it.

study has the config and starts the training in a worker process. training carries it out, step_log
is the CSV that it goes on with, and kill_test kills it and compares its losses.
"""

TRAINING = "ms_adam.lab.studies.resume.training"  # what the worker runs
LOSS, ACCURACY, RESULT, CHECKPOINTS = "loss.csv", "accuracy.csv", "train.json", "checkpoints"
