"""Gaussians in Blender: the point cloud, its nodes and material, native drawing, the layout view.

It imports `cameras` and `engine.bridge`. Every room of the extension may import it.
"""
