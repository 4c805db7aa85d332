"""Colours in which a subject can be painted: "a blue car"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paint:
    """A subject's colour: sRGB 0-255 at medium brightness, and its names, the usual one first."""

    rgb: tuple[int, int, int]
    english: tuple[str, ...]
    chinese: tuple[str, ...]


PAINTS = {
    "red": Paint((222, 44, 50), ("red", "scarlet", "crimson"), ("红色", "红", "大红色")),
    "orange": Paint((244, 134, 30), ("orange",), ("橙色", "橘色")),
    "yellow": Paint((248, 204, 40), ("yellow", "golden yellow"), ("黄色", "黄", "金黄色")),
    "green": Paint((58, 164, 76), ("green", "emerald green"), ("绿色", "绿", "翠绿色")),
    "blue": Paint((44, 104, 222), ("blue", "navy blue"), ("蓝色", "蓝", "深蓝色")),
    "purple": Paint((138, 72, 196), ("purple", "violet"), ("紫色", "紫")),
    "pink": Paint((244, 130, 178), ("pink", "rose pink"), ("粉色", "粉红色")),
    "brown": Paint((134, 88, 54), ("brown",), ("棕色", "褐色")),
    "black": Paint((44, 44, 50), ("black", "jet black"), ("黑色", "黑")),
    "white": Paint((232, 232, 236), ("white", "snow white"), ("白色", "白")),
}
