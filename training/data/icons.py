"""Reads Iconify icon sets: finds the icon of an emoji and returns it as an SVG document.

Source of the JSON layout: https://iconify.design/docs/types/.
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
"""Package of each icon set, by the set's short name."""

INK = "#1c1c1c"
"""Replaces `currentColor`, which only the single-coloured contrast set uses."""


class IconError(LookupError):
    """An icon set lacks an icon, or uses a feature that is not supported."""


class IconSet:
    """One icon set.

    Args:
        name: Short name of the set.
        folder: Folder of its package.
        characters: `chars.json` of another set. The colour Fluent set ships an empty one and
            names its icons like the flat set.
    """

    def __init__(self, name: str, folder: Path, characters: Path | None = None) -> None:
        self.name = name
        self._data: dict[str, Any] = json.loads((folder / "icons.json").read_text())
        chars = characters or folder / "chars.json"
        self._characters: dict[str, str] = json.loads(chars.read_text())

    def icon_of(self, hexcode: str) -> str | None:
        """Returns the icon's name for code points like "1F43B-200D-2744-FE0F", or None."""
        code = hexcode.lower()
        icon = self._characters.get(code) or self._characters.get(code.replace("-fe0f", ""))
        known = icon in self._data["icons"] or icon in self._data.get("aliases", {})
        return icon if known else None

    def svg(self, icon: str) -> str:
        """Returns the icon as an SVG document, centred in a square.

        Raises:
            IconError: The icon is missing, or a mirrored or rotated alias.
        """
        aliases = self._data.get("aliases", {})
        name = icon
        while name in aliases:
            alias = aliases[name]
            if alias.keys() & {"hFlip", "vFlip", "rotate"}:
                raise IconError(
                    f"{self.name}:{icon} is a mirrored or rotated alias; choose another icon."
                )
            name = alias["parent"]
        if name not in self._data["icons"]:
            raise IconError(f"{self.name} has no icon {icon!r}; see its icons.json.")
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
    """Opens all icon sets, by short name; `folders` as from `fetch.fetch_all`."""
    flat = folders[SETS["flat"]] / "chars.json"
    return {
        name: IconSet(name, folders[package], flat if name == "fluent" else None)
        for name, package in SETS.items()
    }
