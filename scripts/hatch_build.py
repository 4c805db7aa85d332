"""Build hooks of wuliart-turbo: the stubs, and the client of the same version as a dependency."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_protos import generate


class ClientDependency(MetadataHookInterface):
    """Makes `dependencies` of the listed ones and of wuliart-client, pinned to this version."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling before it reads the project's metadata."""
        version = metadata.get("version") or self._version()
        metadata["dependencies"] = [f"wuliart-client=={version}", *self.config["dependencies"]]

    def _version(self) -> str:
        found: dict[str, str] = {}
        path = Path(self.root) / "wuliart_contract" / "version.py"
        exec(path.read_text(encoding="utf-8"), found)
        return found["VERSION"]


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs protoc before files are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling for wheels, editable installs and sdists alike."""
        generate(Path(self.root))
