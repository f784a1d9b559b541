"""Trainings on text: exact and lazy Adam, ours and MindSpore's, on row-sparse and dense gradients.

config describes them and names the sides, runner starts a worker for each mode, training is the
loop and bag_of_words what is trained, comparison the rows, verdicts the claims. Only training and
bag_of_words import MindSpore.
"""
