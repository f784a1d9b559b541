"""How fast Adam is: whole compiled steps of many contenders, timed in turn in one run.

cases        lists of parameters: shapes alone
contenders   who takes part: optimizers, and the limit that memory sets
worker       the process of one contender in one case; times steps when it is told to
runner       lets the workers take turns; medians, ratios, drift
"""
