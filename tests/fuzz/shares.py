"""Divides a number of inputs among the targets, by their importance and cost.

Apart from `targets`, so that counting inputs does not import the code under test.
"""

from __future__ import annotations

from typing import Final

SHARES: Final = {
    "lora": 40,
    "keys": 25,
    "request": 25,
    "protocol": 20,
    "directory": 5,
    "gguf": 20,
    "single": 20,
    "recipe": 10,
}
"""Relative numbers of inputs. An input of `protocol` takes five times as long as one of `lora`,
one of `directory` twelve times."""


def share(target: str, inputs: int) -> int:
    """Returns the target's share of `inputs`, rounded up."""
    return -(-inputs * SHARES[target] // sum(SHARES.values()))
