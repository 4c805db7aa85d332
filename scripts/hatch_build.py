"""Wheel build hook: generates the protobuf stubs, so that `pip install .` needs no other step."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_protos import generate


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs protoc before files are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling for wheels, editable installs and sdists alike."""
        generate(Path(self.root))
