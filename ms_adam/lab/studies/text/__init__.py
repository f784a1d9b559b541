"""Trainings on text: exact and lazy Adam, ours and MindSpore's, on row-sparse and dense gradients.

sides names the ways to train, study has the config, the runs and their rows, claims are the claims.
"""
