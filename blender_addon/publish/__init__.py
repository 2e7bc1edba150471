"""Sets for other people: collections, exports, proxies, passes, linked libraries.

It imports `splats`, `jobs`, `cameras` and `engine.bridge`. `ui` and `jobs` may import it.
"""
