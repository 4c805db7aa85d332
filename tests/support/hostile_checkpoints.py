"""Damaged copies of the embedded checkpoint, for tests that they are refused."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
INDEX = TRANSFORMER + ".index.json"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"

Damage = Callable[[Path], None]
"""Changes a copy of a checkpoint in place."""


def copy(checkpoint: Path, to: Path) -> Path:
    """Copies a checkpoint by hard links; `put` replaces a file without changing the original."""
    shutil.copytree(checkpoint, to, copy_function=os.link)
    return to


def put(path: Path, content: bytes | str) -> None:
    """Replaces a path by a new file."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def content(file: str, data: bytes | str) -> Damage:
    """Replaces a file's content."""
    return lambda folder: put(folder / file, data)


def changed(file: str, path: tuple[str, ...], value: Any) -> Damage:
    """Sets a value of a JSON file."""

    def damage(folder: Path) -> None:
        whole = table = json.loads((folder / file).read_text())
        for name in path[:-1]:
            table = table[name]
        table[path[-1]] = value
        put(folder / file, json.dumps(whole))

    return damage


def linked(file: str, target: str) -> Damage:
    """Replaces a file or folder by a link."""

    def damage(folder: Path) -> None:
        path = folder / file
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return damage


def piped(file: str) -> Damage:
    """Replaces a file by a pipe that is never written to."""

    def damage(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return damage


def cut(file: str, size: int) -> Damage:
    """Truncates or extends a file."""

    def damage(folder: Path) -> None:
        put(folder / file, (folder / file).read_bytes())
        os.truncate(folder / file, size)

    return damage


def header(text: str | bytes, data: bytes = b"") -> bytes:
    """Returns a safetensors file with this header."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw + data


def one_tensor(dtype: str, shape: list[int], data: bytes) -> bytes:
    """Returns a safetensors file whose one tensor claims this type and shape."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    return header(json.dumps({"a": entry}), data)


def index(weight_map: Any) -> Damage:
    """Replaces the transformer's one file by an index of shards."""

    def damage(folder: Path) -> None:
        (folder / TRANSFORMER).unlink()
        put(folder / INDEX, json.dumps({"weight_map": weight_map}))

    return damage


def two_shards(*, moved: str = "", twice: str = "") -> Damage:
    """Splits the transformer into two files.

    Args:
        moved: a tensor that the index places in the other file.
        twice: a tensor that both files hold.
    """

    def damage(folder: Path) -> None:
        tensors = load_file(folder / TRANSFORMER)
        names = list(tensors)
        halves = {
            "a.safetensors": names[: len(names) // 2],
            "b.safetensors": names[len(names) // 2 :],
        }
        weight_map = {name: shard for shard, held in halves.items() for name in held}
        if moved:
            weight_map[moved] = next(s for s in halves if s != weight_map[moved])
        for shard, held in halves.items():
            also = [twice] if twice and twice not in held else []
            path = folder / "transformer" / shard
            save_file({name: tensors[name].contiguous() for name in [*held, *also]}, path)
        index(weight_map)(folder)

    return damage
