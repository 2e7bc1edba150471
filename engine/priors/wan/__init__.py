"""Wan 2.1: VACE, which completes a masked render, and Fun InP.

It imports `models` and `priors`. `priors` imports it when its name is asked for.
"""
