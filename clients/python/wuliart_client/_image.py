"""A generated image and the types that describe it. Saving never overwrites a file."""

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
    """An adapter that the request named and the server left out because it cannot be used.

    `reason` is ADAPTER_NOT_FOUND or ADAPTER_REFUSED, with which a stricter server would have failed
    the call. `message` explains it.
    """

    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds per stage of one image; `total` is from the request's arrival to the JPEG."""

    queued: float
    text_encode: float
    denoise: float
    decode: float
    jpeg_encode: float
    total: float


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """A finished image: `data` is a whole file of `media_type`; width and height in pixels.

    `skipped_adapters` is empty unless the server runs with --on-bad-adapter=skip.
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
        """Writes `YYYYMMDD_HHMMSS.jpg` into `directory`, which is created if it is missing.

        If this second's name is taken, the next free second's is used. Returns the path.

        Raises:
            OSError: the file cannot be written.
        """
        return save_dated(Path(directory), self.data, datetime.now())

    def save_as(self, path: str | Path) -> Path:
        """Writes to `path` and returns it.

        Raises:
            FileExistsError: the path exists.
            OSError: the file cannot be written.
        """
        path = Path(path)
        write_new(path, self.data)
        return path


def write_new(path: Path, data: bytes) -> None:
    """Creates `path` with `data`, or raises FileExistsError. A failed write leaves no file."""
    with naming(path), path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the file's name to an OSError of the body; the error of a failed write has none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def save_dated(directory: Path, data: bytes, now: datetime) -> Path:
    """Writes `data` under the first free name at or after `now`; returns the path."""
    directory.mkdir(parents=True, exist_ok=True)
    while True:
        path = directory / now.strftime(NAME_PATTERN)
        try:
            write_new(path, data)
        except FileExistsError:
            now += timedelta(seconds=1)
        else:
            return path
