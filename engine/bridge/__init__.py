"""All that Blender and the engine share: the wire, the settings, and the files that both read.

It imports the standard library, numpy and plyfile, and nothing else of ours. Everyone may import
it; it is the only room of the engine that the extension may import.
"""
