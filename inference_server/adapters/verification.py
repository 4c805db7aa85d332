"""Copies a committed slot to where the transformer reads it, and verifies its checksum.

A slot is published only after that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from inference_server.adapters.metrics import AdapterMetrics, Count, Duration
from inference_server.adapters.segment import AdapterSegment
from inference_server.errors import RequestError
from inference_server.model.kernels.low_rank import AdapterTensors
from wuliart_contract.status import Reason
from wuliart_lora.slot_layout import NO_PRODUCTS, KroneckerShapes


class SlotVerifier:
    """Copies committed slots to the device and compares their checksums, in a worker thread.

    Args:
        segment: the slots' memory.
        metrics: counts and times the verifications.
    """

    def __init__(self, segment: AdapterSegment, metrics: AdapterMetrics) -> None:
        self._segment = segment
        self._metrics = metrics

    async def verify(
        self,
        index: int,
        *,
        checksum: bytes,
        written_bytes: int,
        packed_rank: int,
        sites: Sequence[str],
        kronecker: KroneckerShapes = NO_PRODUCTS,
    ) -> AdapterTensors:
        """Verifies a slot and copies it to where the transformer reads it.

        Args:
            index: of the slot.
            checksum: XXH3-128 of its first `written_bytes` bytes.
            written_bytes: bytes that the checksum covers.
            packed_rank: rank that its low-rank sites are packed for.
            sites: the sites that the adapter acts on.
            kronecker: the modules that it acts on by Kronecker products.

        Returns:
            Views of the adapter in the slot.

        Raises:
            RequestError: CHECKSUM_MISMATCH or INVALID_REQUEST.
        """
        began = time.monotonic()
        layout = self._segment.layout
        if not 0 < written_bytes <= layout.slot_bytes:
            raise RequestError(Reason.INVALID_REQUEST, "the commit does not fit its slot")
        try:
            end = layout.packing(packed_rank, sites, kronecker).nbytes
        except ValueError as error:
            raise RequestError(Reason.INVALID_REQUEST, str(error)) from None
        if end > written_bytes:
            # No image may be generated with bytes that the checksum does not cover.
            raise RequestError(
                Reason.INVALID_REQUEST, "the commit's sites reach beyond its written bytes"
            )
        tensors = self._segment.tensors(index, packed_rank, sites, kronecker)
        matches = await self._in_thread(index, written_bytes, checksum)
        self._metrics.observe(Duration.VERIFY, time.monotonic() - began)
        if not matches:
            self._metrics.count(Count.CHECKSUM_FAILURES)
            raise RequestError(
                Reason.CHECKSUM_MISMATCH,
                f"slot {index} does not hold what was committed; write it again",
            )
        return tensors

    async def _in_thread(self, index: int, nbytes: int, checksum: bytes) -> bool:
        """Returns True if the slot matches the checksum.

        A cancelled call waits for the worker, or the slot would be freed while it reads it.
        """
        work = asyncio.ensure_future(
            asyncio.to_thread(self.stage_and_compare, index, nbytes, checksum)
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    def stage_and_compare(self, index: int, nbytes: int, checksum: bytes) -> bool:
        """Copies a slot to where the transformer reads it; returns True if the checksum matches."""
        # Copied first: a later write is then either not in the copy, or changes the checksum.
        self._segment.stage(index, nbytes)
        return self._segment.checksum(index, nbytes) == checksum
