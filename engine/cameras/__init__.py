"""Camera paths: trajectories, readers and writers of other programs' files, fields of view.

It imports `scene` and `bridge`. `geometry`, `outputs`, `job` and `commands` may import it.
"""
