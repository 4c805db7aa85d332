"""Renders SVG documents to RGBA pictures, and keeps a set's pictures in one pack file.

Owns the renderer (resvg, from the `resvg-py` wheel, MIT) and the pack's layout: an uncompressed
zip of lossless WebP files named CODE.webp, so that a picture is read without unpacking the rest.
Does not know where SVGs come from or what they show.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
"""(size, size, 4) RGBA, straight (not premultiplied) alpha, sRGB."""

FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""Time stamp of every member, so that equal pictures make equal packs."""


def render(svg: str, size: int) -> Picture:
    """The SVG drawn `size` x `size` px with transparent surroundings.

    Raises ValueError when the size is not positive or the SVG cannot be drawn.
    """
    # Here, so that packs are read where the renderer is not installed.
    import resvg_py  # type: ignore[import-not-found, unused-ignore]

    if size < 1:
        raise ValueError(f"A picture of {size} px cannot be drawn; the size must be positive.")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    picture = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    if picture.shape != (size, size, 4):
        raise ValueError(f"The SVG came out as {picture.shape}, not {size} px square.")
    return picture


def compose(picture: Picture, background: tuple[int, int, int]) -> Picture:
    """(size, size, 3) RGB: the picture over a plain background of 0-255 values.

    Blended in sRGB, as browsers do: out = a * colour + (1 - a) * background.
    """
    alpha = picture[..., 3:].astype(np.float32) / 255.0
    colour = picture[..., :3].astype(np.float32)
    over = alpha * colour + (1.0 - alpha) * np.asarray(background, np.float32)
    return np.rint(over).astype(np.uint8)


class Pack:
    """Pictures of one set in one file: `with Pack(path) as pack: pack.add(code, picture)`.

    Appending to an existing file keeps what is there; `read_only` opens it without writing.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._zip = zipfile.ZipFile(path, "r" if read_only else "a", zipfile.ZIP_STORED)
        self._codes = [Path(name).stem for name in self._zip.namelist()]

    def __enter__(self) -> Pack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._codes)

    def __contains__(self, code: object) -> bool:
        return code in self._codes

    def add(self, code: str, picture: Picture) -> None:
        """Stores an RGBA picture losslessly; colour under full transparency is not kept."""
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "WEBP", lossless=True, quality=60, method=4)
        self._zip.writestr(zipfile.ZipInfo(f"{code}.webp", FIXED_TIME), data.getvalue())
        self._codes.append(code)

    def read(self, code: str) -> Picture:
        """The RGBA picture of a code. Raises KeyError when the pack has none."""
        with self._zip.open(f"{code}.webp") as file:
            return np.array(Image.open(file).convert("RGBA"))
