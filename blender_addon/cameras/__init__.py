"""Blender's cameras and the engine's: conversion, moves, blockout depth, how much a path sees.

It imports `engine.bridge`, and of `jobs` and `splats` what its operators need. Every room of the
extension may import it.
"""
