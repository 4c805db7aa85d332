"""A LoRA manager driven by a test: each step of the control contract is one call.

Tests of the server can take the steps in a wrong order or with wrong values. gRPC, descriptor,
mapping and `wuliart_lora.slot_image` are the real ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tests.support.fakes import DEADLINE
from tests.support.harness import InProcessServer
from tests.support.lora_files import make_lora
from wuliart.internal.v1 import segment_pb2 as pb
from wuliart.internal.v1.segment_pb2_grpc import SegmentServiceStub
from wuliart_lora import parse_lora
from wuliart_lora.slot_image import SlotImage, build_image, module_shapes
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout
from wuliart_process.sockets import TOKEN_BYTES

MODULES = ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.img_mod.1")
"""Modules of the adapters made here: a matrix product and a table."""


def introduce(path: Path) -> tuple[bytes, socket.socket]:
    """Blocks for a token, empty if it was refused; returns it with its connection."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DEADLINE)
    connection.connect(str(path))
    return connection.recv(TOKEN_BYTES), connection


def entry_of(name: str, content: bytes = b"", **fields: Any) -> pb.CatalogEntry:
    """Returns a file's entry as the manager reports it."""
    fields.setdefault("title", name.title())
    fields.setdefault("content_hash", hashlib.sha256(content).hexdigest())
    return pb.CatalogEntry(name=name, rank=4, size_bytes=len(content), **fields)


class HandManager:
    """A context manager: attached and mapped inside, gone outside."""

    def __init__(self, server: InProcessServer) -> None:
        self.server = server
        self.stub: Any = SegmentServiceStub(server.channel(server.control_target))
        self.stream: Any = None

    async def __aenter__(self) -> Self:
        await self.attach()
        await self.map()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()
        self.unmap()

    async def introduce(self) -> None:
        """Opens the connection and gets the token that `attach` uses."""
        path = self.server.descriptors.path
        self.token, self.connection = await asyncio.to_thread(introduce, path)

    async def attach(self) -> None:
        await self.introduce()
        self.stream = self.stub.Attach(pb.AttachRequest(token=self.token))
        first = await self.stream.read()
        self.attached: pb.Attached = first.attached
        fields = LayoutParameters.__dataclass_fields__
        self.layout = SegmentLayout(
            LayoutParameters(**{name: getattr(self.attached.layout, name) for name in fields})
        )
        shape = (self.layout.parameters.modulation_rows, self.layout.parameters.width)
        self.conditioning = np.frombuffer(self.attached.conditioning, "<f4").reshape(shape)

    async def map(self) -> None:
        _, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, self.connection, 1, 1)
        (descriptor,) = descriptors
        self.memory = mmap.mmap(descriptor, self.attached.segment_bytes)
        os.close(descriptor)

    def detach(self) -> None:
        self.stream.cancel()

    def unmap(self) -> None:
        self.memory.close()
        self.leave()

    def leave(self) -> None:
        """Ends the connection of a manager that may not have mapped anything."""
        self.connection.close()

    async def next_promotion(self) -> str:
        async with asyncio.timeout(DEADLINE):
            response = await self.stream.read()
        assert response.WhichOneof("message") == "promote", response
        name: str = response.promote.name
        return name

    def content(self, seed: int = 0) -> bytes:
        """Returns the bytes of a LoRA file."""
        return make_lora(self.layout, modules=MODULES, rank=4, seed=seed)

    def image(self, content: bytes) -> SlotImage:
        shapes = module_shapes(self.layout)
        adapter = parse_lora(content, shapes, self.layout.parameters.max_rank)
        return build_image(adapter, self.layout, self.conditioning)

    def report(self, *entries: pb.CatalogEntry) -> Any:
        return self.stub.ReportCatalog(
            pb.ReportCatalogRequest(session_id=self.attached.session_id, entries=entries)
        )

    def reserve(self, name: str, request_id: str = "", evict: bool = True) -> Any:
        return self.stub.ReserveSlot(
            pb.ReserveSlotRequest(
                session_id=self.attached.session_id,
                request_id=request_id or os.urandom(8).hex(),
                name=name,
                evict=evict,
            )
        )

    def write(self, reservation: pb.ReserveSlotResponse, image: SlotImage) -> None:
        data = image.data.tobytes()
        self.memory[reservation.offset : reservation.offset + len(data)] = data

    def commit(
        self,
        reservation: pb.ReserveSlotResponse,
        entry: pb.CatalogEntry,
        image: SlotImage,
        /,
        **overrides: Any,
    ) -> Any:
        """Commits; `overrides` replace fields of the correct request."""
        fields: dict[str, Any] = {
            "session_id": self.attached.session_id,
            "slot": reservation.slot,
            "generation": reservation.generation,
            "checksum": image.checksum,
            "written_bytes": image.data.size,
            "entry": entry,
            "packed_rank": image.packed_rank,
            "sites": image.sites,
            "kronecker": [
                pb.KroneckerProduct(module=module, first_rows=rows, first_columns=columns)
                for module, (rows, columns) in image.kronecker.items()
            ],
        }
        return self.stub.CommitSlot(pb.CommitSlotRequest(**(fields | overrides)))

    def abandon(self, reservation: pb.ReserveSlotResponse) -> Any:
        return self.stub.AbandonSlot(
            pb.AbandonSlotRequest(
                session_id=self.attached.session_id,
                slot=reservation.slot,
                generation=reservation.generation,
            )
        )

    async def load(self, name: str, seed: int = 0) -> pb.CatalogEntry:
        """Makes an adapter resident, with each step right."""
        content = self.content(seed)
        entry, image = entry_of(name, content), self.image(content)
        reservation = await self.reserve(name)
        self.write(reservation, image)
        await self.commit(reservation, entry, image)
        return entry
