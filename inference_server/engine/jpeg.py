"""Pixels to JPEG. Owns the encoder's settings and where a text goes; knows nothing of either."""

from __future__ import annotations

import io
from typing import Any

from PIL import ExifTags, Image
from torch import Tensor

from wuliart.contract.limits import JPEG_QUALITY

PREVIEW_QUALITY = 80


def encode_picture(pixels: Tensor, comment: str = "") -> bytes:
    """A final picture: quality 95, no chroma subsampling (drawn text and line art stay sharp).

    Args:
        pixels: [height, width, 3] uint8 on the CPU.
        comment: goes into EXIF's UserComment, in UTF-16 as the programs that read infotext expect.
    """
    options: dict[str, Any] = {"quality": JPEG_QUALITY, "subsampling": 0}
    if comment:
        exif = Image.Exif()
        text = b"UNICODE\0" + comment.encode("utf-16-be")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = text
        options["exif"] = exif
    return _encode(pixels, **options)


def encode_preview(pixels: Tensor) -> bytes:
    """A preview: small and quick."""
    return _encode(pixels, quality=PREVIEW_QUALITY, subsampling=2)


def _encode(pixels: Tensor, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy(), "RGB").save(buffer, "JPEG", **options)
    return buffer.getvalue()
