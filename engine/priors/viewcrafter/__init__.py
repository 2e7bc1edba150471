"""ViewCrafter, the prior of the paper: its networks, the reader of its checkpoints, its notation.

It imports `models` and `priors`. `priors` imports it when its name is asked for.
"""
