"""One file becomes one judged entry and, if wanted, one slot image.

Owns the single read of a file and the order hash, parse, build. Runs in a worker thread; knows
nothing of the event loop, the server, or other files. The file is read and never mapped: a
mapped file that is truncated meanwhile kills the process with SIGBUS.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora_manager.catalog import Entry
from lora_manager.directory import Found, Stamp
from lora_manager.image import SlotImage, build_image, module_shapes
from wuliart.contract.layout import SegmentLayout
from wuliart.lora import LoraRefused, parse_lora

log = logging.getLogger(__name__)


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

    With `known`, a file of the same content comes back as that entry without being parsed.
    Raises FileChangedError and UnreadableError; a file that is merely bad is a refused entry.
    """
    if found.refusal:
        return Loaded(Entry(found, refusal=found.refusal), None)
    if found.stamp.size > max_bytes:
        reason = f"it has {found.stamp.size:,} bytes and {max_bytes:,} is the limit"
        return Loaded(Entry(found, refusal=reason), None)
    data = read_once(found)
    content_hash = hashlib.sha256(data).hexdigest()
    if known is not None and known.content_hash == content_hash:
        entry = Entry(
            found, content_hash, known.title, known.trigger_words, known.rank, known.refusal
        )
        return Loaded(entry, None, unchanged=True)
    try:
        adapter = parse_lora(data, shape.modules, shape.layout.parameters.max_rank)
        del data
        image = build_image(adapter, shape.layout, shape.conditioning) if want_image else None
    except LoraRefused as refused:
        return Loaded(Entry(found, content_hash, refusal=refused.reason), None)
    except Exception as error:
        # A file that the parser trips over must not take the other adapters with it.
        log.exception("unforeseen failure while reading %s", found.relative)
        reason = f"the manager failed on it ({type(error).__name__}: {error}); see its log"
        return Loaded(Entry(found, content_hash, refusal=reason), None)
    entry = Entry(
        found, content_hash, adapter.title or "", tuple(adapter.trigger_words), adapter.rank
    )
    return Loaded(entry, image)


def read_once(found: Found) -> bytes:
    """All bytes of the file, if it is and stays what was admitted.

    Raises FileChangedError if it is another or was written to meanwhile, UnreadableError if the
    operating system refuses.
    """
    # O_NONBLOCK: a pipe put in the file's place meanwhile must not hang the worker.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        with open(os.open(found.path, flags), "rb", buffering=0) as file:  # noqa: PTH123
            if Stamp.of(os.fstat(file.fileno())) != found.stamp:
                raise FileChangedError(found.relative)
            pieces, left = [], found.stamp.size
            while left > 0 and (piece := file.read(left)):
                pieces.append(piece)
                left -= len(piece)
            if left or Stamp.of(os.fstat(file.fileno())) != found.stamp:
                raise FileChangedError(found.relative)
            return b"".join(pieces)
    except FileNotFoundError:
        raise FileChangedError(found.relative) from None
    except OSError as error:
        raise UnreadableError(f"it cannot be read: {error.strerror or error}") from None
