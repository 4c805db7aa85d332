"""Keeps rendered images on disk, so that the next run, or the next process, only reads them."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wuliart_process.source_hash import source_hash

_HERE = Path(__file__).parent


@cache
def _code() -> str:
    """Returns the hash of the code that renders: another code renders other images."""
    return source_hash([_HERE / "data", _HERE / "grounds.py"])


def kept(
    folder: Path,
    parts: Iterable[str],
    make: Callable[[], dict[str, Tensor]],
    device: torch.device,
) -> dict[str, Tensor]:
    """Returns tensors that were made before from the same parts, or makes and keeps them.

    Where several processes ask for the same, one makes them and the others wait.

    Args:
        folder: Where files are kept.
        parts: All that the result depends on besides the code of `training.data`.
        make: Makes the tensors.
        device: Device of the result.
    """
    digest = hashlib.sha256()
    for part in (_code(), *parts):
        digest.update(hashlib.sha256(part.encode()).digest())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest.hexdigest()[:24]}.safetensors"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial")
            save_file({name: value.contiguous() for name, value in make().items()}, partial)
            partial.rename(path)
    return load_file(path, device=str(device))
