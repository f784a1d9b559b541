"""The experiments of Kingma & Ba 2015, section 6: figures 1 to 4 and the claims about them.

config describes a figure, data and networks are what is trained, optimizers with what, training is
the loop, sweep the grid search, cache what a stop leaves, claims the judgement, runner all of it.
"""
