"""The experiments of Kingma & Ba 2015, section 6: figures 1 to 4 and the claims about them.

`config` describes a figure, `data` has its examples, `optimizers` its optimizers, `training` is the
worker, `sweep` the grid search, `cache` keeps finished runs, `claims` judges, `study` does it all.
"""
