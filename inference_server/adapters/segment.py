"""The pre-allocated memory adapters live in.

Owns the sealed memfd that the LoRA manager writes, and on a GPU the arena of the same size that
the transformer reads. Knows nothing of the life of slots. Nothing in the shared memory is trusted:
no metadata lies there, and a slot is drawn with only after its checksum was verified.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterable

import torch
import xxhash
from torch import Tensor

from inference_server.model.low_rank import AdapterTensors, SiteFactors
from wuliart.contract.layout import SegmentLayout

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class AdapterSegment:
    """`slots` slots of one layout.

    On a CPU the transformer reads the shared memory itself. On a GPU a committed slot is copied to
    the arena on a stream of its own, so that a picture being drawn does not wait.
    """

    def __init__(self, layout: SegmentLayout, slots: int, device: torch.device) -> None:
        self.layout = layout
        self.nbytes = layout.slot_bytes * slots
        # No name to clash with, no truncation under our feet (SIGBUS), gone with its last user.
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self.descriptor = os.memfd_create("wuliart-adapter-segment", flags)
        os.ftruncate(self.descriptor, self.nbytes)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        self._mapping = mmap.mmap(self.descriptor, self.nbytes)
        self._shared = torch.frombuffer(self._mapping, dtype=torch.uint8)
        # Touch every page now: pre-allocated means that no later write can find memory short, and
        # that the first adapter is as quick as the last.
        self._shared.zero_()
        self._on_gpu = device.type == "cuda"
        if self._on_gpu:
            self._arena = torch.zeros(self.nbytes, dtype=torch.uint8, device=device)
            self._stream = torch.cuda.Stream(device)
        else:
            self._arena = self._shared
        self._dtype = TORCH_DTYPES[layout.parameters.dtype]

    def offset(self, slot: int) -> int:
        """First byte of a slot."""
        return slot * self.layout.slot_bytes

    def shared_bytes(self, slot: int) -> Tensor:
        """The slot as the writer sees it: uint8, a view."""
        start = self.offset(slot)
        return self._shared[start : start + self.layout.slot_bytes]

    def zero(self, slot: int) -> None:
        """Overwrites what a failed writer left in the shared memory."""
        self.shared_bytes(slot).zero_()

    def checksum(self, slot: int, nbytes: int) -> bytes:
        """XXH3-128 of the slot itself, 16 bytes big endian; releases the GIL while it runs."""
        start = self.offset(slot)
        return xxhash.xxh3_128(memoryview(self._mapping)[start : start + nbytes]).digest()

    def stage(self, slot: int, nbytes: int) -> None:
        """Copies a verified slot to where the transformer reads it; returns when it is there."""
        if not self._on_gpu:
            return
        piece = slice(self.offset(slot), self.offset(slot) + nbytes)
        with torch.cuda.stream(self._stream):
            self._arena[piece].copy_(self._shared[piece])
        self._stream.synchronize()

    def tensors(self, slot: int, rank: int, sites: Iterable[str]) -> AdapterTensors:
        """Views of the adapter in a slot; nothing is copied.

        Args:
            slot: a READY slot.
            rank: what its low-rank sites are packed with.
            sites: names of the layout's sites that the adapter acts on.

        Raises:
            ValueError: the rank or a site does not belong to this layout.
        """
        if not 1 <= rank <= self.layout.parameters.max_rank:
            raise ValueError(f"rank {rank} is outside 1..{self.layout.parameters.max_rank}")
        factors: dict[str, SiteFactors] = {}
        deltas: dict[str, Tensor] = {}
        for name in sites:
            if (site := self.layout.low_rank_sites.get(name)) is not None:
                down = self._view(slot, site.down_offset, self.layout.down_shape(site, rank))
                up = self._view(slot, site.up_offset, self.layout.up_shape(site, rank))
                factors[name] = SiteFactors(down, up)
            elif (delta := self.layout.delta_sites.get(name)) is not None:
                deltas[name] = self._view(slot, delta.offset, self.layout.delta_shape(delta))
            else:
                raise ValueError(f"the layout has no site {name!r}")
        return AdapterTensors(factors, deltas)

    def _view(self, slot: int, offset: int, shape: tuple[int, ...]) -> Tensor:
        start = self.offset(slot) + offset
        nbytes = torch.Size(shape).numel() * self.layout.element_bytes
        return self._arena[start : start + nbytes].view(self._dtype).view(shape)
