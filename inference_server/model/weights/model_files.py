"""Opens the files of a model's folder, which may come from an untrusted publisher.

Only regular files inside the folder are opened: links must not leave it, opening a pipe does not
block, and JSON files have a maximum size. Every failure is a one-line `ModelError` that names the
file.
"""

from __future__ import annotations

import json
import os
import re
from io import BufferedReader
from pathlib import Path
from typing import Any

from inference_server.errors import ModelError
from inference_server.model.config_values import shown
from wuliart_process.regular_files import open_regular

MAX_CONFIG_BYTES = 1 << 20
"""Largest config that is read; Qwen-Image's largest has 4 KB."""

PIECE = 16 << 20
"""Bytes per read of a range."""

SHARED_BLOB = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
"""Path of a file that several repositories in a Hugging Face hub's cache share."""


def inside(folder: Path, path: Path) -> Path:
    """Resolves a path in a model's folder, every link followed.

    A snapshot in the Hugging Face hub's cache consists of links to the files of its repository,
    `models--ORG--NAME/blobs`, which may be links to files that repositories share, `blobs`.

    Raises:
        ModelError: it is missing, or a link leaves the folder (for a snapshot: the cache).
    """
    try:
        root, real = folder.resolve(strict=True), path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise ModelError(f"cannot read {path}: {_reason(error)}") from None
    if real.is_relative_to(root):
        return real
    repository = root.parent.parent
    if root.parent.name == "snapshots" and repository.name.startswith("models--"):
        shared = repository.parent / "blobs"
        if real.is_relative_to(repository / "blobs") or (
            real.is_relative_to(shared)
            and SHARED_BLOB.fullmatch(real.relative_to(shared).as_posix())
        ):
            return real
    raise ModelError(
        f"{path} is a link to {real}, outside of the model's folder: put the file itself there"
    )


def open_inside(folder: Path, path: Path) -> BufferedReader:
    """Opens a regular file of a model's folder for reading.

    Raises:
        ModelError: it cannot be opened; see `inside`.
    """
    try:
        return open_regular(inside(folder, path))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {_reason(error)}") from None


def exists(path: Path) -> bool:
    """Returns True if the path exists, as a file of any kind.

    Raises:
        ModelError: it cannot be determined.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {str(path)!r}: {_reason(error)}") from None
    return True


def read_inside(folder: Path, path: Path, most: int) -> bytes:
    """Returns the content of a regular file of a model's folder.

    Raises:
        ModelError: it cannot be read, or has more than `most` bytes.
    """
    with open_inside(folder, path) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise ModelError(f"cannot read {path}: {_reason(error)}") from None
    if len(data) > most:
        raise ModelError(f"{path} is larger than the {most:,} bytes that are read")
    return data


def read_range(file: BufferedReader, path: Path, view: memoryview, begin: int, name: str) -> None:
    """Fills a view of bytes with a file's content from `begin` on.

    Args:
        file: the open file.
        path: its path, for messages.
        view: of bytes.
        begin: in bytes from the beginning of the file.
        name: of the tensor that lies there, for messages.

    Raises:
        ModelError: it cannot be read, or ends before.
    """
    at = 0
    while at < len(view):
        try:
            count = os.preadv(file.fileno(), [view[at : at + PIECE]], begin + at)
        except OSError as error:
            raise ModelError(f"cannot read {path}: {_reason(error)}") from None
        if not count:
            raise ModelError(
                f"{path} became shorter while it was read: it ends inside of {shown(name)}"
            )
        at += count


def read_json(folder: Path, path: Path, most: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Parses a JSON object in a model's folder.

    Raises:
        ModelError: the file cannot be read or holds something else.
    """
    return parse_json(read_inside(folder, path, most), str(path))


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Parses a JSON object.

    Args:
        data: its text.
        where: what it is the content of, for the message.

    Raises:
        ModelError: it is something else.
    """
    try:
        value = json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise ModelError(f"cannot read {where}: it is nested too deeply") from None
    except ValueError as error:
        raise ModelError(f"cannot read {where}: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{where} does not hold a JSON object")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
