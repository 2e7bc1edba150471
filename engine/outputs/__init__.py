"""What is made of a finished scene: proxy meshes and render passes.

It imports `formats`, `rasterize`, `scene` and `bridge`. `commands` may import it.
"""
