"""Masks: pictures that say yes where they are white, and no where they are black or transparent."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .photos import load_image


def load_mask(path: Path) -> Tensor:
    """Read a mask [h, w] bool: true where it is brighter than middle grey and not transparent.
    Raises UserError as `load_image` does.
    """
    mask = load_image(path, photo=False).pixels.mean(dim=0) > 0.5  # where transparent, white
    with Image.open(path) as picture:
        if "A" in picture.getbands():
            opaque = torch.from_numpy(np.asarray(picture.getchannel("A")) > 127)
            mask = mask & opaque if opaque.shape == mask.shape else mask
    return mask


def mask_png(mask: Tensor) -> bytes:
    """A mask [h, w] bool as PNG, the same bytes for the same mask."""
    stream = BytesIO()
    Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255).save(stream, format="PNG")
    return stream.getvalue()
