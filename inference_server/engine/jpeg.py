"""Pixels to JPEG. Owns the encoder's settings; knows nothing of what the pixels show."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor

from wuliart.contract.limits import JPEG_QUALITY

PREVIEW_QUALITY = 80


def encode_picture(pixels: Tensor) -> bytes:
    """A final picture: quality 95, no chroma subsampling (drawn text and line art stay sharp).

    Args:
        pixels: [height, width, 3] uint8 on the CPU.
    """
    return _encode(pixels, quality=JPEG_QUALITY, subsampling=0)


def encode_preview(pixels: Tensor) -> bytes:
    """A preview: small and quick."""
    return _encode(pixels, quality=PREVIEW_QUALITY, subsampling=2)


def _encode(pixels: Tensor, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy(), "RGB").save(buffer, "JPEG", **options)
    return buffer.getvalue()
