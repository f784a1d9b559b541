"""Paths of optimizers: over functions of the plane, and of a linear model's two weights.

config describes them; callables and functions are what it names; paths and linear_fit follow them
in NumPy float64, and through_mindspore (with linear_cell) what MindSpore has beside: counterparts
says which optimizer that is. comparison measures how far it goes from its own formula.
"""
