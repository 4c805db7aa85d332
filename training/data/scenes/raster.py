"""Renders a layer or its lower part.

`training.data.render` renders whole squares; most front layers are a fringe along the frame's
lower edge, which takes a fifth of the time when the empty part above it is left out.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from training.data.render import Pixels
from training.data.scenes.painting import SIZE


def raster(svg: str, size: int, top: int = 0) -> Pixels:
    """The layer below a height, [rows, size, 4] uint8 RGBA with straight alpha.

    Args:
        svg: A document of `Painting.svg`.
        size: Edge of the whole frame in px.
        top: Height in px of the 1024 px frame; what is above it is left out.
    """
    # Here, so that scenes can be painted as text where the renderer is not installed.
    import resvg_py  # type: ignore[import-not-found, unused-ignore]

    rows = size - top * size // SIZE
    if top:
        whole, part = f"0 0 {SIZE} {SIZE}", f"0 {SIZE - rows * SIZE / size:g} {SIZE}"
        svg = svg.replace(f'"{whole}"', f'"{part} {rows * SIZE / size:g}"', 1)
        svg = svg.replace(f'height="{SIZE}"', f'height="{rows * SIZE / size:g}"', 1)
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=rows, skip_system_fonts=True)
    image = np.array(Image.open(io.BytesIO(bytes(png))))
    if image.shape != (rows, size, 4):
        raise ValueError(f"The layer was rendered as {image.shape}, not {(rows, size, 4)}.")
    return image
