"""Ways to run jobs without a terminal: the server that Blender talks to, its rehearsal, batches.

It imports `commands`, `job` and `bridge`. `__main__` and `commands` may import it.
"""
