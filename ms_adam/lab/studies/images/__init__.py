"""Trainings on images: each optimizer in each mode, held to NumPy's float64 Adam.

config describes them, runner starts a worker for each mode, training is the loop, shadow the
float64 NumPy that follows a run, comparison the rows, verdicts the claims. Only training imports
MindSpore.
"""
