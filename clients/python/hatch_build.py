"""Build hook of wuliart-client: generates the stubs and adds the packages outside this folder.

In a checkout these packages lie two folders up. The sdist repeats the checkout's layout at its own
root, so a build from it finds them there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHARED = ("wuliart_contract", "wuliart_process")
STUBS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


class ClientBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Fills `build_data["force_include"]`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files; `version` is "editable" or "standard"."""
        here = Path(self.root)
        base = here if (here / "protos").is_dir() else here.parents[1]
        sys.path.insert(0, str(base / "scripts"))
        from build_protos import generate

        generate(base)
        if version == "editable":
            return  # dev-mode-dirs name the folders themselves
        if self.target_name == "sdist":
            files = {path: path.relative_to(base) for path in _sources(base)}
        else:
            files = {path: path.relative_to(base) for path in _packages(base)} | {
                path: path.relative_to(base / "protos")
                for path in _contract(base, "__init__.py", "py.typed", *STUBS)
            }
        build_data["force_include"] |= {str(path): str(place) for path, place in files.items()}


def _packages(base: Path) -> Iterator[Path]:
    for package in SHARED:
        yield from (base / package).rglob("*.py")
        yield from (base / package).glob("py.typed")


def _contract(base: Path, *patterns: str) -> Iterator[Path]:
    """Files of the public contract: wuliart and wuliart.v1, without wuliart.internal."""
    for folder in (base / "protos" / "wuliart", base / "protos" / "wuliart" / "v1"):
        for pattern in patterns:
            yield from folder.glob(pattern)


def _sources(base: Path) -> Iterator[Path]:
    yield from _packages(base)
    yield from _contract(base, "__init__.py", "py.typed", "*.proto")
    yield base / "scripts" / "build_protos.py"
