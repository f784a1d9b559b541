"""Measures the speed of Adam: whole compiled steps of many contenders, timed in turn in one run.

cases        lists of parameters, only shapes
contenders   optimizers, and the limit that memory sets
steps        the timed steps of MindSpore optimizers
worker       the process of one contender in one case; times steps on request
runner       lets the workers take turns; medians, ratios, drift
tables       bench.json as rows of text
"""
