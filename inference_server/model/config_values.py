"""Values of a model's config files, each checked for its type and against bounds.

A config may come from an untrusted checkpoint, and its numbers size loops and memory. The bounds
admit models several times the size of Qwen-Image.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any, Final

from inference_server.errors import ModelError

_REPR: Final = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shown(value: object) -> str:
    """Returns a short repr of a value from a file, without control characters."""
    return "null" if value is None else _REPR.repr(value)


class ConfigValues:
    """The values of one file.

    Args:
        file: the file's name, for messages.
        values: as parsed from JSON.
    """

    def __init__(self, file: str, values: Mapping[str, Any]) -> None:
        self.file = file
        self._values = values

    def integer(self, name: str, default: int | None = None, *, least: int = 1, most: int) -> int:
        """Returns an integer within bounds; `default` if the file lacks it.

        Raises:
            ModelError: the value is missing and has no default, or is not an integer within bounds.
        """
        value = self._get(name, default)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(name, value, f"a whole number from {least:,} to {most:,}")
        return value

    def number(
        self, name: str, default: float | None = None, *, least: float, most: float
    ) -> float:
        """Returns a number within bounds; see `integer`."""
        value = self._get(name, default)
        if not _is_number(value) or not least <= value <= most:
            raise self.wrong(name, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Returns a list of exactly `count` numbers between -1e6 and 1e6."""
        value = self.items(name, most=count)
        if len(value) != count or not all(_is_number(n) and abs(n) <= 1e6 for n in value):
            raise self.wrong(name, value, f"{count} numbers between -1e6 and 1e6")
        return tuple(map(float, value))

    def integers(self, name: str, default: list[int] | None = None, *, most: int) -> list[int]:
        """Returns a list of at most 16 integers from 1 to `most`."""
        value = self.items(name, default, most=16)
        if not all(type(item) is int and 1 <= item <= most for item in value):
            raise self.wrong(name, value, f"whole numbers from 1 to {most:,}")
        return value

    def items(self, name: str, default: list[Any] | None = None, *, most: int) -> list[Any]:
        """Returns a list of at most `most` items of any type."""
        value = self._get(name, default)
        if not isinstance(value, list | tuple) or len(value) > most:
            raise self.wrong(name, value, f"a list of at most {most}")
        return list(value)

    def flag(self, name: str) -> bool:
        """Returns a boolean; False if the file lacks it or holds null."""
        value = self._values.get(name)
        if not isinstance(value, bool | None):
            raise self.wrong(name, value, "true or false")
        return bool(value)

    def text(self, name: str, default: str | None = None, *, most: int = 200) -> str:
        """Returns a printable string of at most `most` characters."""
        value = self._get(name, default)
        if not isinstance(value, str) or len(value) > most or not value.isprintable():
            raise self.wrong(name, value, "a text")
        return value

    def table(self, name: str) -> ConfigValues | None:
        """Returns a nested table; None if the file lacks it or holds null."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, value, "a table")
        return ConfigValues(f"{self.file}: {name}", value)

    def is_equal(self, name: str, expected: object) -> bool:
        """Returns True if the file has the value and it equals `expected`."""
        return name in self._values and self._values[name] == expected

    def has(self, name: str) -> bool:
        """Returns True if the file has the value and it is not null."""
        return self._values.get(name) is not None

    def wrong(self, name: str, value: object, expected: str) -> ModelError:
        """Returns the error for a value that is not `expected`."""
        return ModelError(f"{self.file}: {name} is {shown(value)}, not {expected}")

    def _get(self, name: str, default: object) -> Any:
        value = self._values.get(name, default)
        if value is None and name not in self._values:
            raise ModelError(f"{self.file} lacks {name}")
        return value


def _is_number(value: object) -> bool:
    # isinstance would accept bool, and an integer may be too large for a float.
    if type(value) is int:
        return abs(value) < 1 << 63
    return type(value) is float and math.isfinite(value)
