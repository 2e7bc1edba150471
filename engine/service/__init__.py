"""Ways to run jobs without a terminal: the server that Blender talks to, its rehearsal, batches.

It imports `job`, `models` and `bridge`, and the command of a job when it is asked for. `__main__`
and `commands` may import it.
"""
