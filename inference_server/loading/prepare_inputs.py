"""The inputs that decide what a prepared folder holds, in a form that can be compared.

Taken before anything is read, and again before the manifest is written: a run is resumed only with
the inputs it was begun with, and a source that changes while it is read is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import inference_server.loading
import inference_server.model
import wuliart_lora
from inference_server import VERSION
from inference_server.errors import ModelError
from inference_server.model.weights.checkpoint import SmallFiles
from inference_server.model.weights.prepared_files import small_file_hashes
from inference_server.model.weights.turbo_lora import turbo_files
from wuliart_process.regular_files import open_regular
from wuliart_process.source_hash import source_hash

FileStamps = dict[str, list[int]]
"""Size and time of the last change, in nanoseconds, by path."""

_PACKAGES = (inference_server.loading, inference_server.model, wuliart_lora)
"""Packages whose change may change a prepared folder's bytes. Wider than it must be: a list of
modules would miss the next one, and only unfinished folders are refused."""


class SourceStamps:
    """Stamps of a checkpoint and its Turbo LoRA, taken before either is read.

    Args:
        model: the checkpoint.
        turbo_lora: the few-step LoRA to fuse, or None.

    Attributes:
        small_files: SHA-256 of configs and tokenizer files by path in the diffusers layout.
        turbo: stamps of the Turbo LoRA's files.

    Raises:
        ModelError: a file cannot be read.
    """

    def __init__(self, model: SmallFiles, turbo_lora: Path | None) -> None:
        self._model = model
        self._turbo_lora = turbo_lora
        self.small_files = small_file_hashes(model)
        self.turbo: FileStamps = {}
        if turbo_lora is not None:
            try:
                files = turbo_files(turbo_lora)
            except OSError as error:
                raise ModelError(
                    f"cannot read the Turbo LoRA {turbo_lora}: {error.strerror}"
                ) from None
            self.turbo = file_stamps(files)

    def check_unchanged(self, weights: FileStamps, out: Path) -> None:
        """Compares the sources with what they were when the run began.

        Args:
            weights: the stamps that all weight files had.
            out: the prepared folder, for the message.

        Raises:
            ModelError: a file was changed, added or removed; the message names one.
        """
        now = SourceStamps(self._model, self._turbo_lora)
        changed = _differing(self.small_files, now.small_files, self._model.where)
        changed += _differing(self.turbo, now.turbo) + _differing(weights, _still(weights))
        if changed:
            raise ModelError(
                f"{changed[0]} changed while {out} was prepared from it: remove {out} and start "
                "again"
            )


def file_stamps(paths: Iterable[Path]) -> FileStamps:
    """Returns the stamps of files, links followed.

    Raises:
        ModelError: a file does not exist.
    """
    stamps = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from None
        stamps[str(path)] = [status.st_size, status.st_mtime_ns]
    return stamps


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a regular file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


@cache
def code_hash() -> str:
    """Returns the SHA-256 of the code that makes a prepared folder's bytes."""
    sources = source_hash(Path(package.__path__[0]) for package in _PACKAGES)
    return hashlib.sha256(f"{VERSION}\0{sources}".encode()).hexdigest()


def _still(stamps: FileStamps) -> FileStamps:
    """Returns the present stamps of the same files; missing ones are left out."""
    return file_stamps(path for path in map(Path, stamps) if path.exists())


def _differing(
    before: dict[str, str] | FileStamps, now: dict[str, str] | FileStamps, folder: Path = Path()
) -> list[Path]:
    names = sorted(before.keys() | now.keys())
    return [folder / name for name in names if before.get(name) != now.get(name)]
