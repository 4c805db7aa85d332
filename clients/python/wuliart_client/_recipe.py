"""Finds the recipe in a JPEG file; `wuliart_contract.recipe` defines and parses its text.

The file may come from an untrusted source. The reader looks at segment headers and one EXIF segment
(at most 64 KiB), never at pixels, and in EXIF only at the two entries that lead to the text.
Formats: ITU T.81 annex B (JPEG), CIPA DC-008 (EXIF), TIFF 6.0.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO, Final

from wuliart_contract.recipe import Recipe, RecipeError
from wuliart_process.regular_files import open_regular

_UNICODE: Final = b"UNICODE\0"
_EXIF: Final = b"Exif\0\0"

_START_OF_IMAGE: Final = b"\xff\xd8"
_END_OF_IMAGE, _START_OF_SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_WITHOUT_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xD8)))
"""Markers TEM and RST0 to RST7 stand alone; all others have a length and content."""

_MAX_MARKERS: Final = 1000
"""Before the pixels. A JPEG with the largest colour profile there can be has 270."""

_EXIF_FOLDER, _USER_COMMENT = 0x8769, 0x9286
_OFFSETS, _BYTES = (4, 13), (1, 2, 7)
"""TIFF's types of the two entries: LONG or IFD; BYTE, ASCII or UNDEFINED."""


def read_recipe(image: str | Path | bytes) -> Recipe:
    """The recipe of a JPEG, by its path or as bytes.

    Raises RecipeError, saying why, when the image has none (it was generated without, another
    program wrote it anew, or it is no image of this service), and OSError if the file cannot be
    read or is not a regular file.
    """
    with io.BytesIO(image) if isinstance(image, bytes) else open_regular(Path(image)) as file:
        exif = _exif_segment(file)
    try:
        comment = b"" if exif is None else _user_comment(exif)
        if not comment.startswith(_UNICODE):
            raise RecipeError("it carries no recipe; was it generated with --no-metadata?")
        text = comment.removeprefix(_UNICODE).decode("utf-16-be")
    except (UnicodeDecodeError, struct.error):
        raise RecipeError("its EXIF data are damaged") from None
    return Recipe.parse(text)


def _exif_segment(file: BinaryIO) -> bytes | None:
    """The content of a JPEG's EXIF segment behind its name; None if it has none.

    Raises:
        RecipeError: it is not a JPEG file.
    """
    if file.read(2) != _START_OF_IMAGE:
        raise RecipeError("it is not a JPEG file")
    for _ in range(_MAX_MARKERS):
        # A marker is FF and its number; any number of FF may stand before that.
        number = _byte_after_fill(file)
        if number in (_START_OF_SCAN, _END_OF_IMAGE):
            return None
        if number in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(file.read(2), "big") - 2
        if number is None or length < 0:
            raise RecipeError("it is not a complete JPEG file")
        if number != _APP1:
            file.seek(length, io.SEEK_CUR)
            continue
        content = file.read(length)
        if content.startswith(_EXIF):
            return content.removeprefix(_EXIF)
    raise RecipeError(f"it has more than {_MAX_MARKERS:,} segments before its pixels")


def _byte_after_fill(file: BinaryIO) -> int | None:
    """The number of the marker that begins here; None if none does."""
    if file.read(1) != b"\xff":
        return None
    for _ in range(_MAX_MARKERS):
        if (byte := file.read(1)) != b"\xff":
            return byte[0] if byte else None
    return None


def _user_comment(exif: bytes) -> bytes:
    """The content of EXIF's UserComment; empty if there is none.

    Raises:
        struct.error: the data end before what they announce.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        raise struct.error("no byte order")
    (first,) = struct.unpack_from(f"{order}I", exif, 4)
    folder = _entry(exif, order, first, _EXIF_FOLDER, _OFFSETS)
    comment = folder and _entry(exif, order, folder[1], _USER_COMMENT, _BYTES)
    if not comment or comment[0] < len(_UNICODE):
        return b""
    size, at = comment
    if at + size > len(exif):
        raise struct.error("the comment ends behind the data")
    return exif[at : at + size]


def _entry(
    exif: bytes, order: str, folder: int, tag: int, kinds: tuple[int, ...]
) -> tuple[int, int] | None:
    """(count, value or its offset) of an entry in the folder at an offset; None if it lacks it."""
    (entries,) = struct.unpack_from(f"{order}H", exif, folder)
    for n in range(entries):
        found, kind, count, value = struct.unpack_from(f"{order}HHII", exif, folder + 2 + 12 * n)
        if found == tag and kind in kinds:
            return count, value
    return None
