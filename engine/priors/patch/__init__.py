"""The embedded video prior: a diffusion model of the patches of the input picture. It needs no
weights.

It imports `priors.base` and `geometry.completion`. `priors` imports it when its name is asked for.
"""
