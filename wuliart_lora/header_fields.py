"""The metadata fields of a file's header, by plain name.

Writers put the component's name before a field (`transformer.lora_alpha`) and spell it in capitals
or with dashes. `HeaderFields` keeps every value of a plain name, so that values that differ are
reported instead of one replacing the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from wuliart_lora.alpha import content, read_number
from wuliart_lora.errors import LoraError, shown, shown_value
from wuliart_lora.keys import strip_wrappers


class HeaderField(NamedTuple):
    """One field of the metadata."""

    name: str
    """As the file spells it."""
    value: str

    @property
    def source(self) -> str:
        """The field as an error names it."""
        return f"the header's {shown(self.name)!r}"

    def number(self) -> float | None:
        """Returns the value as a number, None if it is empty; raises `LoraError` otherwise."""
        return read_number(self.value, self.source)


class HeaderFields:
    """A header's metadata, looked up by plain name.

    Iterating gives the plain names.
    """

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._fields: dict[str, list[HeaderField]] = {}
        for name, value in metadata.items():
            self._fields.setdefault(plain_name(name), []).append(HeaderField(name, value))

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def every(self, name: str) -> list[HeaderField]:
        """Returns all fields of this plain name that are not empty."""
        return [field for field in self._fields.get(name, ()) if content(field.value)]

    def one(self, name: str) -> HeaderField | None:
        """Returns the field of this plain name, None if there is none that is not empty.

        Raises:
            LoraError: several fields have the name, and their values differ.
        """
        first, *others = self.every(name) or (None,)
        for other in others:
            if first and other and not same_value(first.value, other.value):
                raise LoraError(
                    f"{first.source} is {shown_value(first.value)} and {other.source} is "
                    f"{shown_value(other.value)}; remove the one that is wrong"
                )
        return first


def plain_name(name: str) -> str:
    """Returns a field's name without the transformer's, in lower case and with underscores."""
    return strip_wrappers(name.strip().lower().replace("-", "_").replace(" ", "_"))


def same_value(first: str, second: str) -> bool:
    """Returns True if two texts mean the same number, flag, or table."""
    return _canonical(first) == _canonical(second)


def _canonical(text: str) -> float | str:
    plain = "".join(content(text).lower().split())
    try:
        return float(plain)
    except ValueError:
        return plain
