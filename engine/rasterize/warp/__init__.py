"""The rasteriser and the loss in NVIDIA Warp: CUDA on every card from Turing on without a compiler,
and the same source on the CPU for tests.

It imports `rasterize.constants`, `scene` and `bridge`. `rasterize` and, for the loss, `method` may
import it.
"""
