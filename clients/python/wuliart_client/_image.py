"""A finished image, and how it is saved without overwriting anything. Knows nothing of gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

NAME_PATTERN: Final = "%Y%m%d_%H%M%S.jpg"
"""File name of a saved image: local time, to the second."""


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """One exact version of an adapter, as used by one image.

    `content_hash` is the file's SHA-256, 64 hexadecimal digits; `generation` counts the server's
    slot writes.
    """

    name: str
    weight: float
    content_hash: str
    generation: int


@dataclass(frozen=True, slots=True)
class SkippedAdapter:
    """An adapter that was asked for, cannot be used, and was left out.

    `reason` is what the call would have failed with, ADAPTER_NOT_FOUND or ADAPTER_REFUSED;
    `message` says it for people.
    """

    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds per stage of one image; `total` from the call's arrival to the encoded image."""

    queued: float
    text_encode: float
    denoise: float
    decode: float
    jpeg_encode: float
    total: float


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """A finished image: `data` is a whole file of `media_type`; width and height in pixels.

    `skipped_adapters` are adapters that it was generated without, on a server that skips bad ones.
    """

    data: bytes = field(repr=False)
    media_type: str
    width: int
    height: int
    seed: int
    steps: int
    adapters: tuple[AdapterUse, ...]
    timings: Timings
    skipped_adapters: tuple[SkippedAdapter, ...] = ()

    def save(self, directory: str | Path) -> Path:
        """Write `YYYYMMDD_HHMMSS.jpg` into `directory`, which is created if it is missing.

        Nothing is ever overwritten: if this second's name is taken, the next free second's is
        used. Returns the path. Raises OSError if it cannot be written.
        """
        return save_dated(Path(directory), self.data, datetime.now())

    def save_as(self, path: str | Path) -> Path:
        """Write to `path`; raises FileExistsError if there is something, OSError if it cannot."""
        path = Path(path)
        write_new(path, self.data)
        return path


def write_new(path: Path, data: bytes) -> None:
    """Create `path` with `data`; FileExistsError if it exists. No half-written file is left."""
    with naming(path), path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError of the body the name of the file; that of a failed write has none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def save_dated(directory: Path, data: bytes, now: datetime) -> Path:
    """Write `data` under the first free name at or after `now`; returns the path."""
    directory.mkdir(parents=True, exist_ok=True)
    while True:
        path = directory / now.strftime(NAME_PATTERN)
        try:
            write_new(path, data)
        except FileExistsError:
            now += timedelta(seconds=1)
        else:
            return path
