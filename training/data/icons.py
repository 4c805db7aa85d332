"""Reads Iconify icon sets: which icon draws an emoji, and that icon as a whole SVG document.

Owns the names of the four sets and Iconify's JSON layout (https://iconify.design/docs/types/).
Does not know which emoji are wanted, nor how an SVG becomes pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SETS = {
    "fluent": "@iconify-json/fluent-emoji",
    "flat": "@iconify-json/fluent-emoji-flat",
    "contrast": "@iconify-json/fluent-emoji-high-contrast",
    "noto": "@iconify-json/noto",
}
"""Our short name of an icon set to the package it is in."""

INK = "#1c1c1c"
"""What `currentColor` becomes: only the contrast set, which is one ink, uses it."""


class IconError(LookupError):
    """An icon set lacks an icon, or describes it in a way that is not understood."""


class IconSet:
    """One icon set: `IconSet("noto", folder of its package)`.

    The colour Fluent set ships an empty `chars.json`; its icons are named as the flat set's, so
    `characters` may point to another set's file.
    """

    def __init__(self, name: str, folder: Path, characters: Path | None = None) -> None:
        self.name = name
        self._data: dict[str, Any] = json.loads((folder / "icons.json").read_text())
        chars = characters or folder / "chars.json"
        self._characters: dict[str, str] = json.loads(chars.read_text())

    def icon_of(self, hexcode: str) -> str | None:
        """The icon's name for code points like "1F43B-200D-2744-FE0F", None where it has none."""
        code = hexcode.lower()
        icon = self._characters.get(code) or self._characters.get(code.replace("-fe0f", ""))
        known = icon in self._data["icons"] or icon in self._data.get("aliases", {})
        return icon if known else None

    def svg(self, icon: str) -> str:
        """The icon as a square SVG document, centred where it is not square itself.

        Raises IconError when it is missing or mirrored.
        """
        aliases = self._data.get("aliases", {})
        name = icon
        while name in aliases:
            alias = aliases[name]
            if alias.keys() & {"hFlip", "vFlip", "rotate"}:
                raise IconError(f"{self.name}:{icon} is a turned alias; choose another icon.")
            name = alias["parent"]
        if name not in self._data["icons"]:
            raise IconError(f"{self.name} has no icon {icon!r}; look into its icons.json.")
        entry = self._data["icons"][name]
        left, top, width, height = (
            entry.get(key, self._data.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        side = max(width, height)
        left, top = left - (side - width) / 2, top - (side - height) / 2
        body = entry["body"].replace("currentColor", INK)
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{side}" height="{side}" viewBox="{left:g} {top:g} {side} {side}">'
            f"{body}</svg>"
        )


def open_sets(folders: dict[str, Path]) -> dict[str, IconSet]:
    """All icon sets by our short name; `folders` is what `fetch.fetch_all` returned."""
    flat = folders[SETS["flat"]] / "chars.json"
    return {
        name: IconSet(name, folders[package], flat if name == "fluent" else None)
        for name, package in SETS.items()
    }
