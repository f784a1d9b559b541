"""One training that can be stopped at any moment, and the test that kills it.

config describes it, runner carries it out in the mode that its process is in, checkpoints and
step_log are what it leaves and goes on from, and kill_test kills it and compares its losses.
"""
