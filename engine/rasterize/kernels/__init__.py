"""How numba kernels are compiled and run here, and those that do not draw: Adam and the loss.

It imports nothing of ours. `rasterize` and `method` may import it.
"""
