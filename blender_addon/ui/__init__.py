"""What a user sees and presses: panels, operators, preferences, properties. It draws and calls, and
decides nothing.

It imports every other room of the extension. `layout` and `grey_with_reason` may be
imported by all.
"""
