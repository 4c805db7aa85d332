"""The fuzz targets by name: what is called with bytes, and what those bytes begin as.

Owns the list; knows nothing of who calls. Imported by the engine under its instrumentation, so the
code under test must not have been imported before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import directory, lora_file, protocol, recipe, request, variation

CORPUS = Path(__file__).with_name("corpus")
"""<target>/<name>: inputs worth keeping; each takes a way through the code that no other takes."""

Vary = Callable[[bytes, int, int, Callable[[bytes, int], bytes]], bytes]


@dataclass(frozen=True)
class Target:
    """One door that strangers' bytes come through."""

    run: Callable[[bytes], None]
    """Raises for a bug and for nothing else."""
    seeds: Callable[[], dict[str, bytes]]
    most_bytes: int
    """Of one input."""
    vary: Vary | None = None
    """How inputs are varied where bytes are not enough."""


TARGETS = {
    "lora": Target(lora_file.run, lora_file.seeds, 8192, variation.vary),
    "keys": Target(lora_file.run_keys, lora_file.key_seeds, 1024, variation.vary_names),
    "request": Target(request.run, request.seeds, 1024),
    "protocol": Target(protocol.run, protocol.seeds, 400),
    "directory": Target(directory.run, directory.seeds, 120),
    "recipe": Target(recipe.run, recipe.seeds, 1024),
}
