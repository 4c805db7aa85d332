"""One file becomes one judged entry and, if wanted, one slot image.

Owns the single read of a file and the order header, data, hash, image. A file that its header shows
to be of no use is refused before its data is read, so that what is read whole is never larger than
the largest adapter of this model. Runs in a worker thread; knows nothing of the event loop, the
server, or other files. The file is read and never mapped: a mapped file that is truncated meanwhile
kills the process with SIGBUS.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lora_manager.catalog import Entry
from lora_manager.found import Found, Stamp
from lora_manager.image import SlotImage, build_image, module_shapes
from wuliart.contract.layout import SegmentLayout
from wuliart.lora import (
    HEAD_BYTES,
    LoraPlan,
    LoraRefused,
    header_bytes,
    plan_lora,
    read_header,
)

log = logging.getLogger(__name__)

_PIECE_BYTES: Final = 8 << 20
"""Hashed while the next is read."""

_REPLACED: Final = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE,
)  # fmt: skip
"""What opening says if a folder, a link, a socket or nothing is now in the file's place."""


class FileChangedError(Exception):
    """The file is no longer what was admitted; it will be admitted again when it is finished."""


class UnreadableError(Exception):
    """The operating system would not hand the bytes over; the message says why."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a file is judged against; the same for a whole session."""

    layout: SegmentLayout
    conditioning: NDArray[np.float32]
    """silu(temb) per row of the modulation table: [modulation_rows, width]."""
    modules: Mapping[str, tuple[int, int]]
    """Module path -> (in_features, out_features) of the linear layer there."""

    @classmethod
    def of(cls, layout: SegmentLayout, conditioning: NDArray[np.float32]) -> ModelShape:
        """Derive the table of modules from the layout."""
        return cls(layout, conditioning, module_shapes(layout))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A judged file."""

    entry: Entry
    image: SlotImage | None
    """None if it was refused, not wanted, or `unchanged`."""
    unchanged: bool = False
    """Whether the content is that of the entry known before."""


def load(
    found: Found, known: Entry | None, shape: ModelShape, max_bytes: int, *, want_image: bool
) -> Loaded:
    """Read and judge one file.

    With `known`, a file of the same content comes back as that entry, without an image.
    Raises FileChangedError and UnreadableError; a file that is merely bad is a refused entry.
    """
    if found.refusal:
        return Loaded(Entry(found, refusal=found.refusal), None)
    if found.stamp.size > max_bytes:
        reason = f"it has {found.stamp.size:,} bytes and {max_bytes:,} is the limit"
        return Loaded(Entry(found, refusal=reason), None)
    try:
        return _judge(found, known, shape, want_image=want_image)
    except (FileChangedError, UnreadableError):
        raise
    except LoraRefused as refused:
        reason = refused.reason
    except MemoryError:
        reason = (
            f"there is not enough memory to read its {found.stamp.size:,} bytes; free some and "
            "touch the file"
        )
    except Exception as error:
        # A file that the parser trips over must not take the other adapters with it.
        log.exception("unforeseen failure while reading %s", found.relative)
        reason = f"the manager failed on it ({type(error).__name__}: {error}); see its log"
    return Loaded(Entry(found, refusal=reason), None)


def _judge(found: Found, known: Entry | None, shape: ModelShape, *, want_image: bool) -> Loaded:
    digest = hashlib.sha256()
    refusal, adapter, image = "", None, None
    # A thread of its own: it hashes one piece while the next is read, and while all are packed.
    with ThreadPoolExecutor(1, "hash") as beside:
        plan, data = read_once(found, shape, lambda piece: beside.submit(digest.update, piece))
        hashing = beside.submit(digest.hexdigest)
        try:
            adapter = plan.read(data)
            image = build_image(adapter, shape.layout, shape.conditioning) if want_image else None
        except LoraRefused as refused:
            refusal = refused.reason
        content_hash = hashing.result()
    if known is not None and known.content_hash == content_hash:
        # Most changes are real; packing the rare unchanged file is cheap.
        entry = Entry(
            found, content_hash, known.title, known.trigger_words, known.rank, known.refusal
        )
        return Loaded(entry, None, unchanged=True)
    if adapter is None or refusal:
        return Loaded(Entry(found, content_hash, refusal=refusal), None)
    entry = Entry(
        found, content_hash, adapter.title or "", tuple(adapter.trigger_words), adapter.rank
    )
    return Loaded(entry, image)


def read_once(
    found: Found, shape: ModelShape, seen: Callable[[memoryview], object]
) -> tuple[LoraPlan, memoryview]:
    """What the file's header says, and all bytes of the file; `seen` is called with every piece.

    Raises FileChangedError if it is not what was admitted or was written to meanwhile,
    UnreadableError if the operating system refuses, LoraRefused if its header shows that the rest
    is of no use.
    """
    # O_NONBLOCK: a pipe put in the file's place meanwhile must not hang the worker.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        # With an opener the descriptor is closed also if it turns out to be a folder's.
        with open(
            found.path, "rb", buffering=0, opener=lambda path, _: os.open(path, flags)
        ) as file:
            if Stamp.of(os.fstat(file.fileno())) != found.stamp or not _is_at(file, found.path):
                raise FileChangedError(found.relative)
            plan, refused, data = None, None, memoryview(b"")
            try:
                plan = _plan(file, found.stamp.size, shape)
                data = _read_into(file, found.stamp.size, seen)
            except LoraRefused as error:
                refused = error
            if Stamp.of(os.fstat(file.fileno())) != found.stamp:
                raise FileChangedError(found.relative)
            if refused is not None:
                raise refused
            if plan is None or len(data) != found.stamp.size:
                raise FileChangedError(found.relative)
            return plan, data
    except OSError as error:
        if error.errno in _REPLACED:
            raise FileChangedError(found.relative) from None
        raise UnreadableError(f"it cannot be read: {error.strerror or error}") from None


def _is_at(file: FileIO, path: Path) -> bool:
    """Returns False if a folder on the way was replaced by a link since the path was resolved."""
    try:
        return Path(f"/proc/self/fd/{file.fileno()}").readlink() == path
    except FileNotFoundError:
        return True  # there is no /proc here to say


def _read_into(file: FileIO, count: int, seen: Callable[[memoryview], object]) -> memoryview:
    """The next `count` bytes, or as many as there are."""
    # Large ones come in huge pages: an eighth of a second less for 300 MB.
    data, end = np.empty(count, np.uint8).data, 0
    while end < count and (more := file.readinto(data[end : end + _PIECE_BYTES])):
        seen(data[end : end + more])
        end += more
    return data[:end]


def _read(file: FileIO, count: int) -> bytes:
    """The next `count` bytes, or as many as there are."""
    pieces = []
    while count > 0 and (piece := file.read(count)):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _plan(file: FileIO, size: int, shape: ModelShape) -> LoraPlan:
    """What a file of `size` bytes holds by its header, the only part that is read.

    Leaves the file at its beginning.
    """
    start = _read(file, HEAD_BYTES)
    start += _read(file, header_bytes(start, size) - len(start))
    file.seek(0)
    return plan_lora(read_header(start, size), shape.modules, shape.layout.parameters.max_rank)
