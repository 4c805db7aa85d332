"""Keeps trained weights between runs: bf16 safetensors in files small enough to travel.

Owns the naming of the files (`stem-0.safetensors`, `stem-1…`); knows nothing of what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

LARGEST = 15 * 2**20
"""Bytes of tensors in one file."""


def save(weights: Mapping[str, Tensor], folder: Path, stem: str) -> None:
    """Writes the weights as bf16, replacing what the stem held."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{stem}-*.safetensors"):
        old.unlink()
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in weights.items():
        tensor = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        if shards[-1] and size + tensor.nbytes > LARGEST:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    for number, shard in enumerate(shards):
        save_file(shard, folder / f"{stem}-{number}.safetensors")


def load(folder: Path, stem: str) -> dict[str, Tensor]:
    """What `save` wrote.

    Raises:
        FileNotFoundError: there is nothing under that stem.
    """
    paths = sorted(folder.glob(f"{stem}-*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"no {stem}-*.safetensors in {folder}; train it first")
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}
