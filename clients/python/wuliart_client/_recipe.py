"""Reads the recipe out of a picture's file. Owns where it lies in the file; its form is shared."""

from __future__ import annotations

import io
from pathlib import Path

from wuliart.contract.recipe import Recipe, RecipeError

_UNICODE = b"UNICODE\0"


def read_recipe(picture: str | Path | bytes) -> Recipe:
    """The recipe of a JPEG, by its path or as bytes.

    Raises RecipeError, saying why, when the picture has none (it was drawn without, another
    program wrote it anew, or it is no picture of this service), and OSError if it cannot be read.
    """
    # Here: Pillow is slow to import, and only this needs it.
    from PIL import ExifTags, Image, UnidentifiedImageError

    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    try:
        exif = Image.open(io.BytesIO(data)).getexif().get_ifd(ExifTags.IFD.Exif)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise RecipeError("it is not a picture that can be read") from None
    comment = exif.get(ExifTags.Base.UserComment, b"")
    if not isinstance(comment, bytes) or not comment.startswith(_UNICODE):
        raise RecipeError("it carries no recipe; was it drawn with --no-metadata?")
    try:
        text = comment.removeprefix(_UNICODE).decode("utf-16-be")
    except UnicodeDecodeError:
        raise RecipeError("its recipe is damaged") from None
    return Recipe.parse(text)
