"""JPEG encoding of final images and previews.

A GPU encodes an image in a millisecond with nvJPEG, which lies in torchvision's wheel
(`hashes/torch-cuda.txt` locks it). Without it, and on a CPU, Pillow encodes. Both keep full chroma,
so that generated text and line art stay sharp.
"""

from __future__ import annotations

import io
import logging
from functools import cache

import torch
from PIL import ExifTags, Image
from torch import Tensor

from wuliart_contract.limits import JPEG_QUALITY

log = logging.getLogger(__name__)

PREVIEW_QUALITY = 80

START, JFIF, EXIF = b"\xff\xd8", b"\xff\xe0", b"\xff\xe1"
"""Markers: start of image, application segments 0 and 1."""


@cache
def on_gpu() -> bool:
    """Returns True if nvJPEG works here: images may then stay on the GPU until the encode.

    The first call tries it and logs which encoder is used.
    """
    if not torch.cuda.is_available():
        log.info("JPEG encoder: Pillow, because PyTorch sees no GPU")
        return False
    try:
        _encode_on_gpu(torch.zeros(16, 16, 3, dtype=torch.uint8, device="cuda"))
    except (ImportError, RuntimeError, OSError) as error:
        log.warning("JPEG encoder: Pillow, because torchvision's nvJPEG failed: %s", error)
        return False
    log.info("JPEG encoder: nvJPEG")
    return True


def encode_image(pixels: Tensor, comment: str = "") -> bytes:
    """Encodes a final image at JPEG_QUALITY, without chroma subsampling.

    Args:
        pixels: [height, width, 3] uint8, on the CPU, or on a GPU if `on_gpu`.
        comment: text for EXIF's UserComment, written as UTF-16, which is what programs that read
            infotext expect; empty: none.

    Raises:
        ValueError: the comment takes more than 64 KiB.
    """
    jpeg = _encode_on_gpu(pixels) if pixels.is_cuda else _encode(pixels, JPEG_QUALITY, 0)
    return _with_comment(jpeg, comment) if comment else jpeg


def encode_preview(pixels: Tensor) -> bytes:
    """Encodes a preview: smaller and quicker, with chroma subsampling.

    Args:
        pixels: [height, width, 3] uint8 on the CPU.
    """
    return _encode(pixels, PREVIEW_QUALITY, 2)


def _encode(pixels: Tensor, quality: int, subsampling: int) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels.numpy(), "RGB")
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def _encode_on_gpu(pixels: Tensor) -> bytes:
    from torchvision.io import encode_jpeg

    encoded: Tensor = encode_jpeg(pixels.permute(2, 0, 1).contiguous(), quality=JPEG_QUALITY)
    return encoded.cpu().numpy().tobytes()


def _with_comment(jpeg: bytes, comment: str) -> bytes:
    """Inserts an EXIF segment with the comment behind the JFIF header."""
    exif = Image.Exif()
    text = b"UNICODE\0" + comment.encode("utf-16-be")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = text
    content = exif.tobytes()
    if len(content) + 2 > 0xFFFF:
        raise ValueError("a text in EXIF must be shorter than 64 KiB")
    front = len(START)
    if jpeg[front : front + 2] == JFIF:
        front += 2 + int.from_bytes(jpeg[front + 2 : front + 4], "big")
    segment = EXIF + (len(content) + 2).to_bytes(2, "big") + content
    return jpeg[:front] + segment + jpeg[front:]
