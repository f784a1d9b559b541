"""One training that can be stopped at any moment, and the test that kills it.

study has the config, training carries it out in the mode that its process is in, step_log is the
CSV that it goes on with, and kill_test kills it and compares its losses.
"""
