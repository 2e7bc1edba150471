"""Learned depth models by name: each factory takes the settings and the device and loads its model."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..settings import GeometrySettings
from .base import DepthSource

LEARNED: dict[str, Callable[[GeometrySettings, torch.device], DepthSource]] = {}
