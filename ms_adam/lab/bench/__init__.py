"""Measures the speed of Adam: whole compiled steps of many contenders, timed in turn in one run.

cases        lists of parameters, only shapes
contenders   optimizers, and the limit that memory sets
steps        the timed steps of MindSpore optimizers
runner       a process for each contender, which take turns; medians, ratios, drift
tables       bench.json as rows of text
"""
