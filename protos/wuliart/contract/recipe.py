"""The recipe a picture carries: what has to be asked for to get the same picture again.

Owns its text, in the "parameters" form that image browsers of this field read (AUTOMATIC1111's
infotext: the prompt with `<lora:...>` tags, then one line of settings). What that form cannot say
exactly (weights, full hashes) is in a setting of its own, `Styles`. Knows nothing of EXIF or JPEG.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from wuliart.contract.limits import IMAGE_SIZE

PRODUCT: Final = "WuliArt"
_SETTING: Final = re.compile(r'\s*([A-Za-z][\w ]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SHORT_HASH: Final = 12
"""Digits of a hash in the form that others read."""


class RecipeError(ValueError):
    """A text is no recipe of this service; the message says why."""


@dataclass(frozen=True, slots=True)
class RecipeStyle:
    """A style as one picture used it; `content_hash` is its file's SHA-256 in hexadecimal."""

    name: str
    weight: float
    content_hash: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a picture; `version` is the server's package version."""

    prompt: str
    seed: int
    steps: int
    styles: tuple[RecipeStyle, ...]
    model: str
    version: str

    def text(self) -> str:
        """The recipe as infotext."""
        hashes = ", ".join(f"{s.name}: {s.content_hash[:_SHORT_HASH]}" for s in self.styles)
        exact = [[s.name, s.weight, s.content_hash] for s in self.styles]
        settings = {
            "Steps": str(self.steps),
            "Sampler": "Euler",
            "CFG scale": "1",
            "Seed": str(self.seed),
            "Size": f"{IMAGE_SIZE}x{IMAGE_SIZE}",
            "Model": _quoted(self.model),
            **({"Lora hashes": json.dumps(hashes, ensure_ascii=False)} if self.styles else {}),
            "Styles": json.dumps(json.dumps(exact, ensure_ascii=False), ensure_ascii=False),
            "Version": f"{PRODUCT} {self.version}",
        }
        line = ", ".join(f"{name}: {value}" for name, value in settings.items())
        return f"{self.prompt}{_tags(self.styles)}\n{line}"

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """The recipe that `text` wrote.

        Raises:
            RecipeError: it was written by something else, or changed since.
        """
        head, _, line = text.rpartition("\n")
        settings = {m[1]: m[2] for m in _SETTING.finditer(line)}
        product, _, version = settings.get("Version", "").partition(" ")
        if product != PRODUCT:
            raise RecipeError("its parameters were not written by WuliArt")
        try:
            styles = tuple(
                RecipeStyle(str(name), float(weight), str(content_hash))
                for name, weight, content_hash in json.loads(json.loads(settings["Styles"]))
            )
            seed, steps = int(settings["Seed"]), int(settings["Steps"])
            model = settings["Model"]
            model = json.loads(model) if model.startswith('"') else model
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"its parameters are damaged ({error})") from None
        return cls(head.removesuffix(_tags(styles)), seed, steps, styles, model, version)


def _tags(styles: tuple[RecipeStyle, ...]) -> str:
    return "".join(f" <lora:{s.name}:{s.weight:g}>" for s in styles)


def _quoted(value: str) -> str:
    """As infotext quotes a value that holds its own punctuation."""
    plain = not re.search(r'[,:\n"]', value) and value == value.strip()
    return value if plain else json.dumps(value, ensure_ascii=False)
