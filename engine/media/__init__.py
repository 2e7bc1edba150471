"""Pictures and films: every photo as plain RGB, and PNG, EXR and MP4 out.

It imports `scene` and `bridge`. Every room above them may import it.
"""
