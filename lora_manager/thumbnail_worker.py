"""The process that decodes preview images: `python -m lora_manager.thumbnail_worker`.

Images come from anybody, and the libraries that decode them are written in C. So they run in a
process of their own, with limits on its memory and its time: the worst that an image can do is end
it. It reads requests from its input and writes answers to its output, until the input ends.

    request:  4 bytes, little endian: n; then n bytes of an image
    answer:   1 byte: 1 for a thumbnail, 0 for a reason; 4 bytes: n; then n bytes
"""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import sys
from typing import BinaryIO, Final

from PIL import Image, ImageOps

from wuliart_contract.limits import MAX_THUMBNAIL_BYTES, THUMBNAIL_PIXELS

MAX_PIXELS: Final = 40_000_000
"""Of an image; 8K video has 33 million. Decoding takes up to 16 bytes a pixel (WebP)."""

MAX_EDGE: Final = 20_000

_FORMATS: Final = ("PNG", "JPEG", "WEBP")

_MEMORY_BYTES: Final = 1 << 30
"""Address space of the process: what the largest image takes, and the libraries."""

_CPU_SECONDS: Final = 10
"""Of one image: the largest takes one to three. The kernel ends a process that takes more."""

_QUALITIES: Final = (88, 75, 60, 40, 20)
"""JPEG qualities, tried until the file is small enough; a typical thumbnail has 12 KB at the first.
Noise of 256 x 256 pixels has 20 KB at the last."""


class UnusableError(Exception):
    """The image cannot be used; the message says why."""


def thumbnail(data: bytes) -> bytes:
    """Returns a small JPEG of an image's first frame, without its metadata, over white.

    Args:
        data: a PNG, JPEG or WebP file.

    Raises:
        UnusableError: it is none of these, damaged, or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_EDGE:
                raise UnusableError(
                    f"it has {width} x {height} pixels, and {MAX_PIXELS:,} pixels and an edge of "
                    f"{MAX_EDGE:,} are the limit"
                )
            # A JPEG is decoded at a fraction of its size; other formats ignore this.
            image.draft("RGB", (2 * THUMBNAIL_PIXELS, 2 * THUMBNAIL_PIXELS))
            return _encoded(_reduced(image))
    except UnusableError:
        raise
    except MemoryError:
        raise UnusableError("it takes too much memory to decode") from None
    except Exception as error:
        # Pillow raises a dozen types for damaged files, struct.error and SyntaxError among them.
        raise UnusableError(
            f"it is not a PNG, JPEG or WebP file that can be decoded ({type(error).__name__})"
        ) from None


def _reduced(image: Image.Image) -> Image.Image:
    """Returns the image at the size of a thumbnail, as RGB and upright; may change `image`."""
    transparent = image.has_transparency_data
    mode = "RGBA" if transparent else "RGB"
    small = image if image.mode == mode else image.convert(mode)
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    upright = ImageOps.exif_transpose(small)
    if not transparent:
        return upright
    paper = Image.new("RGB", upright.size, "white")
    paper.paste(upright, mask=upright.getchannel("A"))
    return paper


def _encoded(image: Image.Image) -> bytes:
    # A copy of the pixels alone: Pillow would write what else the image carries.
    pixels = Image.frombytes("RGB", image.size, image.tobytes())
    for quality in _QUALITIES:
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MAX_THUMBNAIL_BYTES:
            return file.getvalue()
    raise UnusableError("its thumbnail is too large")


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers requests until there are no more."""
    while len(head := requests.read(4)) == 4:
        data = requests.read(struct.unpack("<I", head)[0])
        _allow_time()
        try:
            good, answer = 1, thumbnail(data)
        except UnusableError as error:
            good, answer = 0, str(error).encode()
        answers.write(struct.pack("<BI", good, len(answer)) + answer)
        answers.flush()


def _allow_time() -> None:
    """Gives the next image its time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + _CPU_SECONDS + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


def main() -> None:
    """Runs the process."""
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the manager, too
    for limit, value in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    Image.MAX_IMAGE_PIXELS = None  # checked by `thumbnail`, without a warning
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
