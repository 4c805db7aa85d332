"""Turns one file into one judged entry and, on request, one slot image.

A file is read once: sidecar, header, data. A file whose header shows that it cannot be used is
refused before its data is read, so no more is read than the largest adapter of this model has. Runs
in a worker thread. Files are read and never mapped: a mapped file that is truncated meanwhile kills
the process with SIGBUS.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import FileIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lora_manager.admitted_file import (
    FileChangedError,
    UnreadableError,
    admitted_file,
    read_bytes,
)
from lora_manager.catalog import Entry
from lora_manager.hashes import FileHashes
from lora_manager.lora_file import LoraFile
from wuliart_lora import HEAD_BYTES, LoraError, LoraPlan, header_bytes, plan_lora, read_header
from wuliart_lora.sidecar import SIDECAR_NAME, check_sidecar_size, parse_sidecar
from wuliart_lora.slot_contents import check_capacity
from wuliart_lora.slot_image import SlotImage, build_image, module_shapes, norm_features
from wuliart_lora.slot_layout import SegmentLayout

log = logging.getLogger(__name__)

_PIECE_BYTES: Final = 8 << 20
"""Hashed while the next is read."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Shape of the model that files must fit; constant within a session."""

    layout: SegmentLayout
    conditioning: NDArray[np.float32]
    """silu(temb) per row of the modulation table: [modulation_rows, width]."""
    modules: Mapping[str, tuple[int, int]]
    """Module path -> (in_features, out_features) of the linear layer there."""
    norms: Mapping[str, int]
    """Module path -> features of the norm there."""

    @classmethod
    def of(cls, layout: SegmentLayout, conditioning: NDArray[np.float32]) -> ModelShape:
        """Derive the tables of modules from the layout."""
        return cls(layout, conditioning, module_shapes(layout), norm_features(layout))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A judged file."""

    entry: Entry
    image: SlotImage | None
    """None if it was refused, not wanted, or `unchanged`."""
    unchanged: bool = False
    """True if the content is that of the entry known before."""


def load(
    found: LoraFile, known: Entry | None, shape: ModelShape, max_bytes: int, *, want_image: bool
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
    except LoraError as refused:
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


def _judge(found: LoraFile, known: Entry | None, shape: ModelShape, *, want_image: bool) -> Loaded:
    refusal, adapter, image = "", None, None
    sidecar = _read_sidecar(found)
    config = None if sidecar is None else parse_sidecar(sidecar)
    with FileHashes() as hashing:
        plan, data = read_once(found, shape, hashing.update, config)
        try:
            adapter = plan.read(data)
            image = build_image(adapter, shape.layout, shape.conditioning) if want_image else None
        except LoraError as refused:
            refusal = refused.reason
        content_hash, autov3 = hashing.finish(sidecar or b"")
    if known is not None and known.content_hash == content_hash:
        # Most changes are real; packing the rare unchanged file is cheap.
        entry = replace(known, found=found, autov3=autov3)
        return Loaded(entry, None, unchanged=True)
    if adapter is None or refusal:
        return Loaded(Entry(found, content_hash, refusal=refusal, autov3=autov3), None)
    entry = Entry(
        found, content_hash, adapter.title or "", adapter.trigger_words, adapter.rank,
        autov3=autov3, notes=adapter.notes,
    )  # fmt: skip
    return Loaded(entry, image)


def read_once(
    found: LoraFile,
    shape: ModelShape,
    seen: Callable[[memoryview], object],
    config: Mapping[str, Any] | None = None,
) -> tuple[LoraPlan, memoryview]:
    """Reads a file once and returns the plan that its header gives, and all its bytes.

    Args:
        found: the admitted file.
        shape: shape of the model that the file must fit.
        seen: called with every piece as it is read.
        config: the fields of its adapter_config.json.

    Raises:
        FileChangedError: the file is not the admitted one, or was written to during the read.
        UnreadableError: the operating system refuses to read it.
        LoraError: its header shows that the file cannot be used.
    """
    with admitted_file(found.path, found.stamp) as file:
        plan = _plan(file, found, shape, config)
        data = _read_into(file, found.stamp.size, seen)
        if len(data) != found.stamp.size:
            raise FileChangedError(found.relative)
    return plan, data


def _read_sidecar(found: LoraFile) -> bytes | None:
    """The content of its adapter_config.json, None if it has none; raises as `read_once` does."""
    if found.sidecar is None or found.sidecar_stamp is None:
        return None
    size = found.sidecar_stamp.size
    check_sidecar_size(size)
    with admitted_file(found.sidecar, found.sidecar_stamp, f"{SIDECAR_NAME} beside it") as file:
        content = read_bytes(file, size)
        if len(content) != size:
            raise FileChangedError(found.relative)
    return content


def _read_into(file: FileIO, count: int, seen: Callable[[memoryview], object]) -> memoryview:
    """The next `count` bytes, or as many as there are."""
    # Large ones come in huge pages: an eighth of a second less for 300 MB.
    data, end = np.empty(count, np.uint8).data, 0
    while end < count and (more := file.readinto(data[end : end + _PIECE_BYTES])):
        seen(data[end : end + more])
        end += more
    return data[:end]


def _plan(
    file: FileIO, found: LoraFile, shape: ModelShape, config: Mapping[str, Any] | None
) -> LoraPlan:
    """Reads the file's header and returns its plan.

    Leaves the file positioned at its beginning.
    """
    size, rival = found.stamp.size, found.sidecar_rival or None
    start = read_bytes(file, HEAD_BYTES)
    start += read_bytes(file, header_bytes(start, size) - len(start))
    file.seek(0)
    max_rank = shape.layout.parameters.max_rank
    header = read_header(start, size)
    plan = plan_lora(header, shape.modules, max_rank, config, rival, shape.norms)
    check_capacity(plan, shape.layout)
    return plan
