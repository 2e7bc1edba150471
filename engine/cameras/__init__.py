"""Camera paths: trajectories, readers and writers of other programs' files, fields of view.

It imports `bridge` alone. `geometry`, `job`, `evaluation` and `commands` may import it.
"""
