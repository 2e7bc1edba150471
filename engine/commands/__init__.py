"""The command line, one file a command; `__main__` imports the one that is asked for.

It may import every room. `service` imports the commands that Blender asks for over the wire.
"""
