"""Writes a contact sheet: rows of small images with captions, as one PNG of limited size.

It shows the prompts of the group "own", all of them, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.quality.series import Images, Series

COLUMNS = 10
EDGE = 150
GUTTER = 14
TEXT = 12
LINE = 15
LINES = 3
MAX_BYTES = 2_400_000
GREY, FRAME = (90, 92, 98), (222, 222, 226)
CJK = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "C:/Windows/Fonts/msyh.ttc",
)
"""Usual paths of fonts with Chinese characters."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Cell(NamedTuple):
    """One image, uint8 [3, edge, edge] or None if it was not generated, and its caption."""

    image: Tensor | None
    caption: str


def rows(series: Series, images: Images) -> list[list[Cell]]:
    """Returns the rows of the sheet."""
    cells = [Cell(images[spec].image, prompt.text) for prompt, spec in series]
    return [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]


def chinese_font() -> Font | None:
    """Returns a font with Chinese characters, or None if none of the usual ones is installed."""
    found = next((path for path in CJK if Path(path).is_file()), None)
    return ImageFont.truetype(found, TEXT) if found else None


def save(rows: Sequence[Sequence[Cell]], path: Path) -> None:
    """Writes the rows as PNG; reduces colours until the file has at most MAX_BYTES."""
    page = _page(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, optimize=True)
    for colours in (256, 128, 64, 32):
        if path.stat().st_size <= MAX_BYTES:
            return
        page.quantize(colours, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def _page(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    height = EDGE + 6 + LINES * LINE + GUTTER
    size = (COLUMNS * (EDGE + GUTTER) + GUTTER, len(rows) * height + GUTTER)
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    chinese = chinese_font()
    latin = ImageFont.load_default(TEXT)
    for number, row in enumerate(rows):
        top = GUTTER + number * height
        for column, cell in enumerate(row):
            left = GUTTER + column * (EDGE + GUTTER)
            if cell.image is not None:
                pixels = Image.fromarray(cell.image.permute(1, 2, 0).numpy())
                page.paste(pixels.resize((EDGE, EDGE), Image.Resampling.LANCZOS), (left, top))
            box = (left - 1, top - 1, left + EDGE, top + EDGE)
            draw.rectangle(box, outline=FRAME)
            font = latin if cell.caption.isascii() or chinese is None else chinese
            for line, text in enumerate(_wrapped(cell.caption, font)):
                at = (left, top + EDGE + 6 + line * LINE)
                draw.text(at, text, GREY, font)
    return page


def _wrapped(text: str, font: Font) -> list[str]:
    """Wraps text to the width of an image; text beyond LINES lines is dropped."""
    # Chinese breaks between any two characters, English between words.
    joint = " " if text.isascii() else ""
    words = text.split(" ") if joint else list(text)
    lines = [""]
    for word in words:
        longer = f"{lines[-1]}{joint}{word}" if lines[-1] else word
        if font.getlength(longer) <= EDGE or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:LINES]
