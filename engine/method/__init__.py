"""The paper, Scene Splatter (arXiv 2504.02764): the loop and its equations, tensors in and tensors
out.

It imports `rasterize`, `scene` and `bridge`, of `geometry` the files `completion` and `fill`, and
of `priors` the interface `base`; it receives priors as arguments. `job` and `evaluation` may import
it.
"""
