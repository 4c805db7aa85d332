"""Runs one local Ray cluster at a time: two that start together on two cores time out."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ray_alone() -> Iterator[None]:
    """Waits until no other test worker runs a cluster."""
    with (Path(tempfile.gettempdir()) / "wuliart-tests-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
