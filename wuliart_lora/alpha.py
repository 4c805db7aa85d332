"""Numbers that decide an adapter's scale, in the forms that files spell them."""

from __future__ import annotations

import re
from typing import Final

from wuliart_lora.errors import LoraError, shown_value

MAX_ALPHA: Final = 1e6

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_MAX_DIGITS: Final = 64

_EMPTY: Final = frozenset({"none", "null"})
"""The text that str() or JSON makes of a setting that the trainer was not given."""


def check_alpha(alpha: float, where: str) -> float:
    """Returns `alpha`; raises `LoraError` if it is out of range. `where` it is written."""
    if not 0 < alpha <= MAX_ALPHA:  # also false for NaN
        raise LoraError(
            f"alpha is {alpha:g} in {where}; it must be above 0 and at most "
            f"{MAX_ALPHA:,.0f}: export the LoRA again"
        )
    return alpha


def content(text: str) -> str:
    """Returns a metadata value without spaces and quotes around it; "" if it is not set."""
    text = text.strip().strip("\"'").strip()
    return "" if text.lower() in _EMPTY else text


def read_number(value: object, where: str) -> float | None:
    """Reads a finite number, also one written as text ("16", "16.0", '"16"').

    Args:
        value: a value of the metadata or of a JSON document.
        where: its place, as an error names it.

    Returns:
        The number; None if the value is not set.

    Raises:
        LoraError: the value is anything else.
    """
    if isinstance(value, str):
        text = content(value)
        if not text:
            return None
        if len(text) <= _MAX_DIGITS and _NUMBER.fullmatch(text):
            return _finite(float(text), where)
    elif value is None:
        return None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, where)
    raise LoraError(
        f"{where} is {shown_value(value)} and should be a number; export the LoRA again"
    )


def _finite(value: float, where: str) -> float:
    if not abs(value) <= MAX_ALPHA:  # also false for NaN; an int may be longer than any float
        raise LoraError(
            f"{where} is out of range: it must be at most {MAX_ALPHA:,.0f}; export the LoRA again"
        )
    return float(value)
