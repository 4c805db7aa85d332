"""The fuzz targets by name: the function under test, its seeds, and its limits.

The engine imports this module under instrumentation, so the code under test must not have been
imported before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import (
    directory,
    gguf_file,
    lora_file,
    protocol,
    recipe,
    request,
    single_file,
    variation,
)

CORPUS = Path(__file__).with_name("corpus")
"""Files <target>/<name>: kept inputs, each of which covers code that no other covers."""

Vary = Callable[[bytes, int, int, Callable[[bytes, int], bytes]], bytes]


@dataclass(frozen=True)
class Target:
    """One entry point for untrusted bytes."""

    run: Callable[[bytes], None]
    """Processes an input; raises only for a bug."""
    seeds: Callable[[], dict[str, bytes]]
    most_bytes: int
    """Maximum size of an input."""
    vary: Vary | None = None
    """Varies inputs by their structure; None varies them as bytes."""


TARGETS = {
    "lora": Target(lora_file.run, lora_file.seeds, 8192, variation.vary),
    "keys": Target(lora_file.run_keys, lora_file.key_seeds, 1024, variation.vary_names),
    "request": Target(request.run, request.seeds, 1024),
    "protocol": Target(protocol.run, protocol.seeds, 400),
    "directory": Target(directory.run, directory.seeds, 120),
    "gguf": Target(gguf_file.run, gguf_file.seeds, 4096, gguf_file.vary),
    "single": Target(single_file.run, single_file.seeds, 4096, single_file.vary),
    "recipe": Target(recipe.run, recipe.seeds, 1024),
}
