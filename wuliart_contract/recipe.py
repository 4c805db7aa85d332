"""The recipe in an image's file: the request that generates the same image again.

The text has the "parameters" form that image browsers read (AUTOMATIC1111's infotext): the prompt
with `<lora:...>` tags, then one line of settings. `Lora hashes` holds the AutoV3 hash of each
adapter, by which other programs find the file. `Adapters` is a setting of this service; it holds
what infotext cannot express exactly, the weights and the SHA-256 of each file.

A recipe to be read comes from a file of unknown origin. Parsing takes time proportional to the
text, and all values of a parsed recipe are within the service's limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wuliart_contract.limits import (
    IMAGE_SIZE,
    MAX_ADAPTER_NAME_CHARACTERS,
    MAX_ADAPTER_WEIGHT,
    MAX_ADAPTERS,
    MAX_PROMPT_CHARACTERS,
    MAX_STEPS,
    MIN_STEPS,
)

PRODUCT: Final = "WuliArt"
MAX_RECIPE_CHARACTERS: Final = 1 << 15
"""Fills one EXIF segment (64 KiB) in UTF-16. The longest valid recipe is a third of that."""

_ADAPTERS: Final = "Adapters"
_ADAPTERS_BEFORE: Final = "Styles"
"""The name of the setting in images generated before 2026-11-30."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_AUTOV3: Final = re.compile(r"[0-9a-f]{12}")


class RecipeError(ValueError):
    """A text is not a recipe of this service; the message says why."""


@dataclass(frozen=True, slots=True)
class RecipeAdapter:
    """An adapter as used for one image; `content_hash` is that of `Adapter` in the contract."""

    name: str
    weight: float
    content_hash: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines an image.

    `schedule` is `ModelInfo.schedule`, the name of the noise levels; None for an image of a version
    that did not record it. `version` is the server's package version.
    """

    prompt: str
    seed: int
    steps: int
    adapters: tuple[RecipeAdapter, ...]
    model: str
    schedule: str | None
    version: str

    def text(self, autov3: Mapping[str, str] | None = None) -> str:
        """Returns the recipe as infotext.

        Args:
            autov3: AutoV3 hashes by adapter name, as far as known. `parse` ignores them.
        """
        known = [(s.name, (autov3 or {}).get(s.name)) for s in self.adapters]
        hashes = ", ".join(f"{name}: {digits}" for name, digits in known if digits)
        exact = [[s.name, s.weight, s.content_hash] for s in self.adapters]
        settings = {
            "Steps": str(self.steps),
            "Sampler": "Euler",
            **({} if self.schedule is None else {"Schedule type": _quoted(self.schedule)}),
            "CFG scale": "1",
            "Seed": str(self.seed),
            "Size": f"{IMAGE_SIZE}x{IMAGE_SIZE}",
            "Model": _quoted(self.model),
            **({"Lora hashes": json.dumps(hashes, ensure_ascii=False)} if hashes else {}),
            _ADAPTERS: json.dumps(json.dumps(exact, ensure_ascii=False), ensure_ascii=False),
            "Version": f"{PRODUCT} {self.version}",
        }
        line = ", ".join(f"{name}: {value}" for name, value in settings.items())
        return f"{self.prompt}{_tags(self.adapters)}\n{line}"

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Returns the recipe of an infotext that `text()` of this or an earlier version wrote.

        Raises:
            RecipeError: another program wrote the text, or it has been changed.
        """
        if len(text) > MAX_RECIPE_CHARACTERS:
            raise RecipeError(
                f"its parameters are {len(text):,} characters long, more than the "
                f"{MAX_RECIPE_CHARACTERS:,} of any recipe"
            )
        head, _, line = text.rpartition("\n")
        if f"Version: {PRODUCT} " not in line:
            raise RecipeError("its parameters were not written by WuliArt")
        try:
            settings = _settings(line)
            exact = settings[_ADAPTERS_BEFORE if _ADAPTERS_BEFORE in settings else _ADAPTERS]
            adapters = tuple(_adapter(entry) for entry in _list(json.loads(exact)))
            if len(adapters) > MAX_ADAPTERS:
                raise ValueError(f"{len(adapters)} adapters, at most {MAX_ADAPTERS} go together")
            prompt = head.removesuffix(_tags(adapters))
            if not 0 < len(prompt) <= MAX_PROMPT_CHARACTERS:
                raise ValueError(f"a prompt of {len(prompt):,} characters")
            recipe = cls(
                prompt=prompt,
                seed=_integer(settings, "Seed", 0, (1 << 64) - 1),
                steps=_integer(settings, "Steps", MIN_STEPS, MAX_STEPS),
                adapters=adapters,
                model=settings["Model"],
                schedule=settings.get("Schedule type"),
                version=settings["Version"].removeprefix(f"{PRODUCT} "),
            )
            recipe.text().encode()  # raises for a lone surrogate in a quoted value
        except KeyError as error:
            raise RecipeError(f"its parameters are damaged ({error} is missing)") from None
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"its parameters are damaged ({error})") from None
        return recipe


def is_autov3(text: str) -> bool:
    """Returns True for the 12 hexadecimal digits of an AutoV3 hash."""
    return _AUTOV3.fullmatch(text) is not None


def _settings(line: str) -> dict[str, str]:
    """Returns the settings of a line `Name: value, Name: "quoted value"`, in one pass.

    Raises:
        ValueError: a quoted value is malformed.
    """
    settings, at = {}, 0
    while (colon := line.find(":", at)) >= 0:
        name, at = line[at:colon].strip(), colon + 1
        while line[at : at + 1] == " ":
            at += 1
        if line[at : at + 1] == '"':
            value, at = _QUOTED.raw_decode(line, at)
            if line[at : at + 1] not in ("", ","):
                raise ValueError(f"something follows the value of {name[:40]!r}")
        else:
            comma = line.find(",", at)
            value, at = line[at:comma] if comma >= 0 else line[at:], comma
        settings[name] = value
        if at < 0:
            break
        at += 1
    return settings


_QUOTED: Final = json.JSONDecoder()


def _adapter(entry: object) -> RecipeAdapter:
    """Returns the adapter of an entry [name, weight, content hash] in `Adapters`."""
    name, weight, content_hash = _list(entry)
    if not (isinstance(name, str) and 0 < len(name) <= MAX_ADAPTER_NAME_CHARACTERS):
        raise ValueError("an adapter's name is not a text of its length")
    if type(weight) not in (int, float) or not abs(weight) <= MAX_ADAPTER_WEIGHT:
        allowed = f"{-MAX_ADAPTER_WEIGHT:g} to {MAX_ADAPTER_WEIGHT:g}"
        raise ValueError(f"an adapter's weight is not a number from {allowed}")
    if not (isinstance(content_hash, str) and _SHA256.fullmatch(content_hash)):
        raise ValueError("an adapter's hash is not a SHA-256 in hexadecimal")
    return RecipeAdapter(name, float(weight), content_hash)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("Adapters is not a list of lists")
    return value


def _integer(settings: dict[str, str], name: str, least: int, most: int) -> int:
    digits = settings[name]
    if not (digits.isdecimal() and digits.isascii() and len(digits) <= len(str(most))):
        raise ValueError(f"{name} is not a whole number from {least} to {most}")
    if not least <= (value := int(digits)) <= most:
        raise ValueError(f"{name} is {value}, not {least} to {most}")
    return value


def _tags(adapters: tuple[RecipeAdapter, ...]) -> str:
    return "".join(f" <lora:{s.name}:{s.weight:g}>" for s in adapters)


def _quoted(value: str) -> str:
    """Quotes a value that contains infotext's punctuation."""
    plain = not re.search(r'[,:\n"]', value) and value == value.strip()
    return value if plain else json.dumps(value, ensure_ascii=False)
