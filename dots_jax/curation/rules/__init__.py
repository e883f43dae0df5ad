"""Rules that look at one document: what is measured, the limits, clutter lines, and the rules of single sites.

ngrams.py measure.py     every number of a text, in one pass
judge.py                 numbers against thresholds: a reason and a score for each rule that fails
clutter.py c4.py         rules that remove lines
sites.py                 rules of single sites, from a file
step.py                  the step of the pipeline, and what `explain` prints
"""
