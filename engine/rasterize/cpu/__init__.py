"""The CPU rasteriser: project, sort into tiles, blend, and the gradient of each.

It imports `rasterize.kernels` and `scene`. Only `rasterize` may import it.
"""
