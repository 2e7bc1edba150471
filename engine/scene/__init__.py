"""Gaussians and what they are made of: parameters, colour, spherical harmonics, pixels,
order in memory, likeness.

It imports `bridge` alone. Every room of the engine but `bridge` may import it.
"""
