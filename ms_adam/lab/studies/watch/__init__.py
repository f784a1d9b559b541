"""Audits the optimizers of a user's script while it trains.

`study` starts the command; `hook` starts `follow` in each of its Python processes, which wraps the
calls in which optimizers step. `schedule` says which calls are looked at. At these, `reading` reads
some elements of each tensor before and after, `step` judges the step in float64, and `account`
writes down what was found. Afterwards `verdict` sums the records up; `parting` compares two runs,
one of which may have had ms_adam put in place by `replacing`.
"""
