"""Trainings on images with narrow state, held to float32 state from the same seeds.

study has the config, the rows of results and the claims, training is the worker.
"""
