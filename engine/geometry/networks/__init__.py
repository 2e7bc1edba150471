"""Depth networks that no library has, one file each, proven against their authors' code.

It imports `cameras`, `models`, `scene` and `bridge`. `geometry` may import it.
"""
