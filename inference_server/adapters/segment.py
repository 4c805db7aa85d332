"""The pre-allocated memory of adapters.

The LoRA manager writes into a sealed memfd. The transformer reads an arena of the same size that no
other process can reach; a committed slot is copied there. A manager that maps the GPU's memory
writes into the arena itself, and nothing is copied. Shared memory is not trusted: it contains no
metadata, and a slot is used only after its checksum was verified.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import weakref
from collections.abc import Iterable

import torch
import xxhash
from torch import Tensor

from inference_server.adapters.device_memory import DeviceMemory, DeviceMemoryError
from inference_server.model.kernels.low_rank import AdapterTensors, SiteFactors
from inference_server.model.kernels.operations import KroneckerProduct
from wuliart_lora.slot_layout import NO_PRODUCTS, KroneckerShapes, SegmentLayout

log = logging.getLogger(__name__)

PIECE_BYTES = 16 << 20
"""Bytes read back from the device at a time, while the piece before is hashed."""

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class AdapterSegment:
    """`slots` slots of one layout.

    On a GPU, slots are copied to the arena on a stream of their own, so that running images do
    not wait.
    """

    def __init__(self, layout: SegmentLayout, slots: int, device: torch.device) -> None:
        self.layout = layout
        self.nbytes = layout.slot_bytes * slots
        # A memfd has no name to clash with and goes with its last user; the seals prevent a
        # truncation, which would end the process with SIGBUS.
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self._descriptor = os.memfd_create("wuliart-adapter-segment", flags)
        os.ftruncate(self._descriptor, self.nbytes)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, seals)
        self._mapping = mmap.mmap(self._descriptor, self.nbytes)
        self._shared = torch.frombuffer(self._mapping, dtype=torch.uint8)
        # Touch every page now, so that no later write runs out of memory and the first adapter is
        # written as fast as the last.
        self._shared.zero_()
        self._device_memory: DeviceMemory | None = None
        self._direct = False
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._pin()
            self._arena = self._device_arena(device)
            self._stream = torch.cuda.Stream(device)
            pieces = torch.empty(2, PIECE_BYTES, dtype=torch.uint8).pin_memory()
            self._pieces = [(piece, memoryview(piece.numpy())) for piece in pieces]
        else:
            self._arena = torch.zeros_like(self._shared)
        self._dtype = TORCH_DTYPES[layout.parameters.dtype]

    def _pin(self) -> None:
        """Lets the copy engine read the shared memory directly, without a staging copy."""
        cuda, address = torch.cuda.cudart(), self._shared.data_ptr()
        if int(cuda.cudaHostRegister(address, self.nbytes, 0)) == 0:
            # The system reuses these addresses. At exit CUDA may be unloaded already, and its
            # registrations with it.
            weakref.finalize(self, cuda.cudaHostUnregister, address).atexit = False

    def _device_arena(self, device: torch.device) -> Tensor:
        try:
            self._device_memory = DeviceMemory(self.nbytes, device)
        except DeviceMemoryError as error:
            log.warning("adapters are staged: device memory cannot be shared: %s", error)
            return torch.zeros(self.nbytes, dtype=torch.uint8, device=device)
        return self._device_memory.bytes

    def open(self, direct: bool) -> bytes:
        """Selects the memory that the next writer gets.

        Args:
            direct: True if the writer can map the device's memory.

        Returns:
            UUID of the GPU whose memory `descriptor` refers to; empty for shared host memory.
        """
        memory = self._device_memory
        self._direct = direct and memory is not None
        return memory.uuid if direct and memory is not None else b""

    @property
    def descriptor(self) -> int:
        """File descriptor of the memory that the present writer writes."""
        if self._direct and self._device_memory is not None:
            return self._device_memory.descriptor
        return self._descriptor

    def offset(self, slot: int) -> int:
        """Returns the offset of a slot's first byte."""
        return slot * self.layout.slot_bytes

    def shared_bytes(self, slot: int) -> Tensor:
        """Returns a uint8 view of the slot as the writer sees it."""
        start = self.offset(slot)
        return self._shared[start : start + self.layout.slot_bytes]

    def zero(self, slot: int) -> None:
        """Zeroes a slot that a failed writer may have written."""
        self.shared_bytes(slot).zero_()
        if self._device_memory is not None:
            start = self.offset(slot)
            with torch.cuda.stream(self._stream):
                self._arena[start : start + self.layout.slot_bytes].zero_()

    def checksum(self, slot: int, nbytes: int) -> bytes:
        """Returns the slot's XXH3-128, 16 bytes big endian; releases the GIL."""
        start = self.offset(slot)
        if self._direct:
            return self._device_checksum(start, nbytes)
        return xxhash.xxh3_128(memoryview(self._mapping)[start : start + nbytes]).digest()

    def _device_checksum(self, start: int, nbytes: int) -> bytes:
        """Hashes device memory, reading one piece back while another is hashed."""
        digest, events = xxhash.xxh3_128(), [torch.cuda.Event() for _ in range(2)]
        begins = range(start, start + nbytes, PIECE_BYTES)

        def fetch(number: int) -> None:
            begin = begins[number]
            source = self._arena[begin : min(begin + PIECE_BYTES, start + nbytes)]
            with torch.cuda.stream(self._stream):
                self._pieces[number % 2][0][: len(source)].copy_(source, non_blocking=True)
                events[number % 2].record()

        fetch(0)
        for number, begin in enumerate(begins):
            events[number % 2].synchronize()
            if number + 1 < len(begins):
                fetch(number + 1)
            piece = self._pieces[number % 2][1]
            digest.update(piece[: min(PIECE_BYTES, start + nbytes - begin)])
        return digest.digest()

    def stage(self, slot: int, nbytes: int) -> None:
        """Copies a slot to where the transformer reads it; returns when the copy is complete.

        Call this before `checksum`: a later change is then either not in the copy, or changes the
        checksum.
        """
        if self._direct:
            return
        piece = slice(self.offset(slot), self.offset(slot) + nbytes)
        with torch.cuda.stream(self._stream):  # None: a CPU has no streams
            self._arena[piece].copy_(self._shared[piece], non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()

    def tensors(
        self,
        slot: int,
        rank: int,
        sites: Iterable[str],
        kronecker: KroneckerShapes = NO_PRODUCTS,
    ) -> AdapterTensors:
        """Returns views of the adapter in a slot, without copying.

        Args:
            slot: a READY slot.
            rank: rank that its low-rank sites are packed for.
            sites: names of the layout's sites that the adapter acts on.
            kronecker: modules that it acts on by Kronecker products.

        Raises:
            ValueError: an argument does not belong to this layout.
        """
        layout = self.layout
        packing = layout.packing(rank, sites, kronecker)
        factors: dict[str, SiteFactors] = {}
        deltas: dict[str, Tensor] = {}
        vectors: dict[str, Tensor] = {}
        for name, offsets in packing.offsets.items():
            if (site := layout.low_rank_sites.get(name)) is not None:
                down, up = offsets
                factors[name] = SiteFactors(
                    self._view(slot, down, layout.down_shape(site, rank)),
                    self._view(slot, up, layout.up_shape(site, rank)),
                )
            elif (delta := layout.delta_sites.get(name)) is not None:
                deltas[name] = self._view(slot, offsets[0], layout.delta_shape(delta))
            else:
                shape = layout.vector_shape(layout.vector_sites[name])
                vectors[name] = self._view(slot, offsets[0], shape)
        products: dict[str, tuple[KroneckerProduct, ...]] = {}
        for module, offsets in packing.kronecker.items():
            at, part = layout.modules[module]
            shapes = layout.kronecker_shapes(module, kronecker[module])
            first, second = map(self._view, (slot, slot), offsets, shapes)
            products[at.name] = (
                *products.get(at.name, ()),
                KroneckerProduct(part, first, second),
            )
        return AdapterTensors(factors, deltas, products, vectors)

    def _view(self, slot: int, offset: int, shape: tuple[int, ...]) -> Tensor:
        start = self.offset(slot) + offset
        nbytes = torch.Size(shape).numel() * self.layout.element_bytes
        return self._arena[start : start + nbytes].view(self._dtype).view(shape)
