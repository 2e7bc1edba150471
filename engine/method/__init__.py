"""The paper, Scene Splatter (arXiv 2504.02764): the loop and its equations, tensors in and tensors
out.

It imports `rasterize`, `scene`, `geometry.completion` and `bridge`, and receives priors as
arguments. `job`, `evaluation` and `outputs` may import it.
"""
