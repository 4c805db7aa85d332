"""The recipe an image carries: what has to be asked for to get the same image again.

Owns its text, in the "parameters" form that image browsers of this field read (AUTOMATIC1111's
infotext: the prompt with `<lora:...>` tags, then one line of settings). In `Lora hashes` they look
for the AutoV3 hash of each LoRA. What that form cannot say exactly (weights, the hash of the whole
file) is in a setting of its own, `Adapters`. Knows nothing of EXIF or JPEG.

A recipe that is read comes with a file from anywhere. Parsing takes time in proportion to the text,
and a recipe that was parsed can be asked for: its values are within the service's limits.
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
"""In UTF-16 that is a whole EXIF segment; the longest recipe within the limits is a third of it."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_AUTOV3: Final = re.compile(r"[0-9a-f]{12}")


class RecipeError(ValueError):
    """A text is no recipe of this service; the message says why."""


@dataclass(frozen=True, slots=True)
class RecipeAdapter:
    """An adapter as one image used it; `content_hash` is `Adapter.content_hash` of the contract."""

    name: str
    weight: float
    content_hash: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides an image.

    `schedule` is `ModelInfo.schedule`: whose noise levels. `version` is the server's package
    version.
    """

    prompt: str
    seed: int
    steps: int
    adapters: tuple[RecipeAdapter, ...]
    model: str
    schedule: str
    version: str

    def text(self, autov3: Mapping[str, str] | None = None) -> str:
        """The recipe as infotext.

        `autov3` are the adapters' hashes for other programs, by name, as far as they are known.
        They are not part of the recipe: reading it back does not need them.
        """
        known = [(s.name, (autov3 or {}).get(s.name)) for s in self.adapters]
        hashes = ", ".join(f"{name}: {digits}" for name, digits in known if digits)
        exact = [[s.name, s.weight, s.content_hash] for s in self.adapters]
        settings = {
            "Steps": str(self.steps),
            "Sampler": "Euler",
            "Schedule type": _quoted(self.schedule),
            "CFG scale": "1",
            "Seed": str(self.seed),
            "Size": f"{IMAGE_SIZE}x{IMAGE_SIZE}",
            "Model": _quoted(self.model),
            **({"Lora hashes": json.dumps(hashes, ensure_ascii=False)} if hashes else {}),
            "Adapters": json.dumps(json.dumps(exact, ensure_ascii=False), ensure_ascii=False),
            "Version": f"{PRODUCT} {self.version}",
        }
        line = ", ".join(f"{name}: {value}" for name, value in settings.items())
        return f"{self.prompt}{_tags(self.adapters)}\n{line}"

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """The recipe that `text` wrote.

        Raises:
            RecipeError: it was written by something else, or changed since.
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
            adapters = tuple(_adapter(entry) for entry in _list(json.loads(settings["Adapters"])))
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
                schedule=settings["Schedule type"],
                version=settings["Version"].removeprefix(f"{PRODUCT} "),
            )
            recipe.text().encode()  # quoted values can spell half a character
        except KeyError as error:
            raise RecipeError(f"its parameters are damaged ({error} is missing)") from None
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"its parameters are damaged ({error})") from None
        return recipe


def is_autov3(text: str) -> bool:
    """Returns True for the 12 hexadecimal digits of an AutoV3 hash."""
    return _AUTOV3.fullmatch(text) is not None


def _settings(line: str) -> dict[str, str]:
    """The settings of a line `Name: value, Name: "quoted value"`; no character is read twice.

    Raises:
        ValueError: a value is not quoted as it should be.
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
    """An adapter from its entry in `Adapters`: [name, weight, content hash]."""
    name, weight, content_hash = _list(entry)
    if not (isinstance(name, str) and 0 < len(name) <= MAX_ADAPTER_NAME_CHARACTERS):
        raise ValueError("an adapter's name is not a text of its length")
    if type(weight) not in (int, float) or not abs(weight) <= MAX_ADAPTER_WEIGHT:
        raise ValueError(f"an adapter's weight is not a number up to {MAX_ADAPTER_WEIGHT:g}")
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
    """As infotext quotes a value that holds its own punctuation."""
    plain = not re.search(r'[,:\n"]', value) and value == value.strip()
    return value if plain else json.dumps(value, ensure_ascii=False)
