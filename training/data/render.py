"""Renders SVG documents to RGBA images, and stores a set's images in one pack file.

The renderer is resvg, from the `resvg-py` wheel (MIT). A pack is an uncompressed zip of lossless
WebP files named CODE.webp, so that one image is read without unpacking the rest.
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

Pixels = NDArray[np.uint8]
"""(size, size, 4) sRGB with straight (not premultiplied) alpha."""

FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""Time stamp of every member, so that equal images give equal packs."""


def render(svg: str, size: int) -> Pixels:
    """Renders the SVG at `size` x `size` px on a transparent background.

    Raises:
        ValueError: The size is not positive, or the SVG cannot be rendered.
    """
    # Imported here, so that packs can be read where the renderer is not installed.
    import resvg_py  # type: ignore[import-not-found, unused-ignore]

    if size < 1:
        raise ValueError(f"An image of {size} px cannot be rendered; the size must be positive.")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    image = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    if image.shape != (size, size, 4):
        raise ValueError(f"The SVG came out as {image.shape}, not {size} px square.")
    return image


def compose(image: Pixels, background: tuple[int, int, int]) -> Pixels:
    """Composes the image over a plain background of 0-255 values; returns (size, size, 3) RGB.

    Blends in sRGB, as browsers do: out = a * colour + (1 - a) * background.
    """
    alpha = image[..., 3:].astype(np.float32) / 255.0
    colour = image[..., :3].astype(np.float32)
    over = alpha * colour + (1.0 - alpha) * np.asarray(background, np.float32)
    return np.rint(over).astype(np.uint8)


class Pack:
    """The images of one set in one file: `with Pack(path) as pack: pack.add(code, image)`.

    Args:
        path: The file; images are appended to an existing one.
        read_only: Opens the file without writing.
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

    def add(self, code: str, image: Pixels) -> None:
        """Stores an RGBA image losslessly, except for the colour of transparent pixels."""
        data = io.BytesIO()
        Image.fromarray(image).save(data, "WEBP", lossless=True, quality=60, method=4)
        self._zip.writestr(zipfile.ZipInfo(f"{code}.webp", FIXED_TIME), data.getvalue())
        self._codes.append(code)

    def read(self, code: str) -> Pixels:
        """Reads the RGBA image of a code.

        Raises:
            KeyError: The pack has none.
        """
        with self._zip.open(f"{code}.webp") as file:
            return np.array(Image.open(file).convert("RGBA"))
