"""An adapter store with an attached manager that writes slot images into its segment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from inference_server.adapters.binder import Binder
from inference_server.adapters.binding import Binding
from inference_server.adapters.records import AdapterState, AdapterWeight, FileEntry
from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.slot_state import Slot, SlotState
from inference_server.adapters.store import AdapterStore, Session
from inference_server.errors import RequestError
from tests.support.fakes import DEADLINE
from tests.support.lora_files import make_lora
from wuliart_contract.status import Reason
from wuliart_lora import parse_lora
from wuliart_lora.slot_image import build_image, module_shapes
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(
    LayoutParameters(
        blocks=1, width=16, mlp_width=32, image_features=8, output_features=8,
        text_features=12, head_features=8, modulation_rows=2, max_rank=4, dtype="float32",
    )
)  # fmt: skip
CONDITIONING = np.ones((2, 16), np.float32)
MODULES = ["img_in", "transformer_blocks.0.attn.to_q", "norm_out.linear"]
IMAGES = [
    build_image(
        parse_lora(make_lora(LAYOUT, seed=n, modules=MODULES), module_shapes(LAYOUT), 4),
        LAYOUT,
        CONDITIONING,
    )
    for n in range(3)
]


def entry(name: str, version: int = 0, refusal: str = "") -> FileEntry:
    return FileEntry(name, name, (), 4, 1000, f"hash {version}", refusal)


@dataclass
class StoreBench:
    """A store, the session of its manager, and a binder.

    `version` picks one of `IMAGES`, and the content hash that goes with it.
    """

    store: AdapterStore
    binder: Binder
    session: Session
    requests: int = 0

    def report(self, *entries: FileEntry) -> None:
        self.store.report(self.session.id, entries)

    def write(self, name: str, version: int = 0, *, evict: bool = True) -> Slot:
        """Reserves a slot and writes a version of the adapter there."""
        self.requests += 1
        slot = self.store.reserve(self.session.id, f"r{self.requests}", name, evict=evict)
        data = IMAGES[version].data.tobytes()
        os.pwrite(self.store.segment.descriptor, data, self.store.segment.offset(slot.index))
        return slot

    async def commit(self, slot: Slot, version: int = 0, **wrong: Any) -> None:
        image = IMAGES[version]
        right = {
            "checksum": image.checksum, "written_bytes": image.data.size,
            "entry": entry(slot.name, version), "packed_rank": image.packed_rank,
            "sites": image.sites, "kronecker": image.kronecker,
        }  # fmt: skip
        await self.store.commit(self.session.id, slot.index, slot.generation, **{**right, **wrong})

    async def publish(self, name: str, version: int = 0) -> Slot:
        slot = self.write(name, version)
        await self.commit(slot, version)
        return slot

    def states(self) -> dict[str, AdapterState]:
        return {a.entry.name: a.state for a in self.store.catalog.adapters}

    def pins(self) -> int:
        return sum(slot.pins for slot in self.store.slots.slots)

    def count(self, state: SlotState) -> int:
        return sum(slot.state is state for slot in self.store.slots.slots)

    def memory(self, slot: int) -> bytes:
        offset = self.store.segment.offset(slot)
        return os.pread(self.store.segment.descriptor, LAYOUT.slot_bytes, offset)

    def binding(self, *names: str) -> asyncio.Task[Binding]:
        return asyncio.create_task(self.binder.bind([AdapterWeight(name, 1.0) for name in names]))

    async def bind(self, *names: str) -> Binding:
        return await asyncio.wait_for(self.binding(*names), DEADLINE)


def make_bench(
    slots: int = 4, *, pinned: tuple[str, ...] = (), skip_bad: bool = False
) -> StoreBench:
    store = AdapterStore(AdapterSegment(LAYOUT, slots + 1, torch.device("cpu")), slots, pinned)
    return StoreBench(store, Binder(store, skip_bad), store.attach())


async def refused(reason: Reason, call: Callable[[], object | Awaitable[object]]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        result = call()
        if isinstance(result, Awaitable):
            await asyncio.wait_for(result, DEADLINE)
    assert caught.value.reason is reason
    return caught.value
