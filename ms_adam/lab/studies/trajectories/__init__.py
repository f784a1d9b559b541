"""Paths of optimizers: over functions of the plane, and of a linear model's two weights.

config describes them, and methods looks up the callables that it names. following makes paths in
NumPy float64 and through MindSpore, and measures how far MindSpore's is from its own formula.
counterparts says which MindSpore optimizer belongs to a method, and study runs all.
"""
