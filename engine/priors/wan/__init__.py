"""Wan 2.1: VACE and Fun InP, which complete a masked render, FixAnything, which repairs one, and
students that need few steps.

It imports `models` and `priors`. `priors` imports it when its name is asked for.
"""
