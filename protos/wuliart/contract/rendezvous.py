"""Where server and LoRA manager meet: the folder of their sockets, and the sockets' names.

Owns what both sides must agree on before they can talk; opens nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CONTROL_SOCKET: Final = "control.sock"
"""gRPC: `wuliart.internal.v1.SegmentService`."""

DESCRIPTOR_SOCKET: Final = "descriptors.sock"
"""Hands out the segment's file descriptor."""


def default_runtime_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """$WULIART_RUNTIME_DIR, else below $XDG_RUNTIME_DIR, else a folder of the user's in /tmp."""
    if explicit := environment.get("WULIART_RUNTIME_DIR"):
        return Path(explicit)
    if session := environment.get("XDG_RUNTIME_DIR"):
        return Path(session) / "wuliart"
    return Path(f"/tmp/wuliart-{os.geteuid()}")
