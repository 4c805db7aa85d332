"""Makes preview images, good and hostile, in the formats that people keep beside LoRA files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


def image(
    kind: str = "PNG",
    color: Any = (200, 30, 30),
    size: tuple[int, int] = (64, 64),
    mode: str = "RGB",
    **options: Any,
) -> bytes:
    """Returns an image file of one color."""
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, kind, **options)
    return file.getvalue()


def color_of(jpeg: bytes) -> tuple[int, int, int]:
    """Returns the color in a JPEG's middle, rounded as coarsely as a JPEG of one color needs."""
    with Image.open(io.BytesIO(jpeg)) as opened:
        width, height = opened.size
        r, g, b = opened.convert("RGB").getpixel((width // 2, height // 2))
    return round(r / 10) * 10, round(g / 10) * 10, round(b / 10) * 10


def chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *more: bytes, bits: int = 8, color: int = 2) -> bytes:
    """Returns a PNG with this head, these compressed rows, and `more` chunks before them."""
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    pieces = (chunk(b"IHDR", head), *more, chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def zeros(count: int) -> bytes:
    """Returns `count` zeros, compressed."""
    packer = zlib.compressobj(9)
    piece = bytes(1 << 20)
    parts = [
        packer.compress(piece[: min(len(piece), count - at)]) for at in range(0, count, 1 << 20)
    ]
    return b"".join(parts) + packer.flush()
