"""The sRGB transfer function (IEC 61966-2-1) both ways, numpy. `scene.colour` has it with
gradients.
"""

from __future__ import annotations

import numpy as np


def srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """Display values to linear light; below 0 is 0, as renderers clamp; above 1 the curve goes
    on.
    """
    v = np.maximum(value, 0.0)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(value: np.ndarray) -> np.ndarray:
    """Linear light to display values: the inverse of `srgb_to_linear`."""
    v = np.maximum(value, 0.0)
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055)
