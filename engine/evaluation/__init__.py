"""The method's experiments on pictures whose other views are known.

scenes.py loads what is compared with, against_truth.py measures, experiments.py says what is run
and runs it, tables.py writes what came out. `commands/evaluate.py` is the command over all four.
"""
