"""Trainings on images: each optimizer in each mode, held to NumPy's float64 Adam.

study has the config and the rows of results, training is the worker, claims are the claims.
"""
