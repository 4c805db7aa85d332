"""Numbers that say how strong an adapter is, in the forms that files spell them.

Owns their form and their range. Does not know where they stand or what follows from them.
"""

from __future__ import annotations

import re
from typing import Final

from wuliart_lora.errors import LoraError, shown_value

MAX_ALPHA: Final = 1e6

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_MAX_DIGITS: Final = 64

_UNSAID: Final = frozenset({"", "none", "null"})
"""What str() makes of a value that a trainer was not given."""


def check_alpha(alpha: float, where: str) -> float:
    """`alpha` if it is usable, else `LoraError`; `where` it is written, as a reason names it."""
    if not 0 < alpha <= MAX_ALPHA:  # also false for NaN
        raise LoraError(
            f"alpha is {alpha:g} in {where}; it must be above 0 and at most "
            f"{MAX_ALPHA:,.0f}: export the LoRA again"
        )
    return alpha


def read_number(value: object, where: str) -> float | None:
    """A finite number, also one written as text ("16", "16.0", '"16"'); None if it says nothing.

    Raises `LoraError` for anything else; `where` it is written, as a reason names it.
    """
    if isinstance(value, str):
        text = value.strip().strip("\"'").strip()
        if text.lower() in _UNSAID:
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
