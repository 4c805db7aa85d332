"""How a number of inputs is shared among the targets: by what each is worth and costs.

Owns the shares. Imports nothing that is fuzzed, so that whoever only counts need not load it.
"""

from __future__ import annotations

from typing import Final

SHARES: Final = {
    "lora": 40,
    "keys": 25,
    "request": 25,
    "protocol": 20,
    "directory": 5,
    "recipe": 10,
}
"""An input of `protocol` takes five times that of `lora`, one of `directory` twelve times."""


def share(target: str, inputs: int) -> int:
    """What a target gets of `inputs`, rounded up."""
    return -(-inputs * SHARES[target] // sum(SHARES.values()))
