"""A stand-in for the inference server's side of the segment, for tests of the LoRA manager.

A real gRPC server on a real Unix socket, a real sealed memfd handed over a real descriptor
socket. It checks checksums over the slot itself and knows slots, leases and names as the contract
describes them, but generates nothing. Tests reach into its fields and inject failures.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import xxhash
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from safetensors.numpy import save

from wuliart.internal.v1 import segment_pb2, segment_pb2_grpc
from wuliart_contract.status import CODES, DOMAIN, Reason
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

PARAMETERS = LayoutParameters(
    blocks=1, width=32, mlp_width=64, image_features=16, output_features=16,
    text_features=24, head_features=8, modulation_rows=4, max_rank=8, dtype="float32",
)  # fmt: skip


@dataclass
class Resident:
    slot: int
    generation: int
    entry: segment_pb2.CatalogEntry
    data: bytes


class FakeSegmentServer(segment_pb2_grpc.SegmentServiceServicer):
    def __init__(self, runtime_dir: Path, *, resident_limit: int = 2) -> None:
        self.runtime_dir = runtime_dir
        self.layout = SegmentLayout(PARAMETERS)
        self.resident_limit = resident_limit
        self.layout_hash = self.layout.hash
        self.fail_commits: list[Reason] = []
        self.lost_commit_replies = 0
        self.corrupt_next = False
        self.lease_ms = 10_000
        self.refused_sessions = 0
        self._generation = 0

    async def start(self) -> None:
        """A new life: new epoch, empty slots."""
        self.epoch = secrets.token_hex(8)
        self.session = ""
        self.resident: dict[str, Resident] = {}
        self.catalog: dict[str, segment_pb2.CatalogEntry] = {}
        self.reports: list[list[str]] = []
        self.pending: list[list[str]] = []
        self.waiting: dict[str, str] = {}
        self.thumbnails: dict[str, str] = {}
        self.thumbnails_complete = False
        self.jpegs: dict[str, bytes] = {}
        self.dropped: list[str] = []
        self.commits: list[tuple[str, str]] = []
        self.reservations: dict[str, tuple[int, int]] = {}
        self.abandoned: list[int] = []
        self.writer_gone = asyncio.Event()
        self._messages: asyncio.Queue[segment_pb2.AttachResponse] = asyncio.Queue()
        self.connections: dict[bytes, socket.socket] = {}
        self.change_attached: Callable[[segment_pb2.Attached], None] = lambda _: None
        self._segment_bytes = self.layout.slot_bytes * (self.resident_limit + 1)
        self._fd = os.memfd_create("fake-segment", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(self._fd, self._segment_bytes)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        control = self.runtime_dir / "control.sock"
        self._descriptors = self.runtime_dir / "descriptors.sock"
        for path in (control, self._descriptors):
            path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._descriptors))
        self._listener.listen()
        self._listener.setblocking(False)
        self._handing_over = asyncio.create_task(self._hand_over())
        self._server = grpc.aio.server()
        segment_pb2_grpc.add_SegmentServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{control}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)
        self._handing_over.cancel()
        await asyncio.gather(self._handing_over, return_exceptions=True)
        self._listener.close()
        os.close(self._fd)

    async def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Wait for a condition with a generous deadline."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():  # noqa: ASYNC110 (any state may be asked for)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(
                f"did not happen; resident {list(self.resident)}, catalog {self.catalog}"
            ) from None

    async def until_judged(self) -> None:
        """Wait for a report of a directory in which every file has been judged."""
        await self.until(lambda: self.reports and not self.pending[-1])

    def promote(self, name: str) -> None:
        self._messages.put_nowait(
            segment_pb2.AttachResponse(promote=segment_pb2.Promote(name=name))
        )

    async def _hand_over(self) -> None:
        loop = asyncio.get_running_loop()
        kept: list[asyncio.Task[None]] = []
        try:
            while True:
                connection, _ = await loop.sock_accept(self._listener)
                kept.append(asyncio.create_task(self._serve_descriptor(connection)))
        finally:
            for task in kept:
                task.cancel()
            await asyncio.gather(*kept, return_exceptions=True)

    async def _serve_descriptor(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        token = secrets.token_bytes(32)
        with connection:
            self.connections[token] = connection
            connection.send(token)
            await loop.sock_recv(connection, 1)
            if self.connections.pop(token, None) is None:
                self.writer_gone.set()

    async def Attach(
        self, request: segment_pb2.AttachRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[segment_pb2.AttachResponse]:
        if self.session:
            self.refused_sessions += 1
            await _abort(context, Reason.MANAGER_ALREADY_ATTACHED, "another manager is attached")
        connection = self.connections.pop(request.token, None)
        if connection is None:
            await _abort(context, Reason.UNAUTHENTICATED, "not a token of this server")
        self.session = secrets.token_hex(8)
        socket.send_fds(connection, [b"\0"], [self._fd])
        p = PARAMETERS
        conditioning = np.linspace(-1, 1, p.modulation_rows * p.width, dtype="<f4")
        try:
            attached = segment_pb2.Attached(
                epoch=self.epoch,
                session_id=self.session,
                segment_bytes=self._segment_bytes,
                layout=segment_pb2.LayoutParameters(
                    **{name: getattr(p, name) for name in LayoutParameters.__slots__}
                ),
                layout_hash=self.layout_hash,
                conditioning=conditioning.tobytes(),
                resident_limit=self.resident_limit,
            )
            self.change_attached(attached)
            yield segment_pb2.AttachResponse(attached=attached)
            while True:
                yield await self._messages.get()
        finally:
            self.session = ""
            self.reservations.clear()

    async def ReportCatalog(self, request, context):
        await self._check_session(request, context)
        before = self.catalog
        self.catalog = {name: before[name] for name in request.pending if name in before}
        self.catalog |= {entry.name: entry for entry in request.entries}
        self.reports.append(sorted(entry.name for entry in request.entries))
        self.pending.append(list(request.pending))
        self.waiting = {file.name: file.reason for file in request.waiting}
        for name, resident in list(self.resident.items()):
            listed = self.catalog.get(name)
            if listed is None or listed.content_hash != resident.entry.content_hash:
                del self.resident[name]
                self.dropped.append(name)
        self.thumbnails = {t.name: t.thumbnail_hash for t in request.thumbnails}
        self.thumbnails_complete = request.thumbnails_complete
        missing = sorted(set(self.thumbnails.values()) - self.jpegs.keys())
        return segment_pb2.ReportCatalogResponse(
            revision=len(self.reports), missing_thumbnails=missing
        )

    async def PutThumbnails(self, request, context):
        await self._check_session(request, context)
        self.jpegs |= {hashlib.sha256(jpeg).hexdigest(): jpeg for jpeg in request.jpegs}
        return segment_pb2.PutThumbnailsResponse()

    def thumbnail(self, name: str) -> bytes | None:
        """The JPEG that the manager has reported and brought for this adapter."""
        return self.jpegs.get(self.thumbnails.get(name, ""))

    async def ReserveSlot(self, request, context):
        await self._check_session(request, context)
        if request.request_id not in self.reservations:
            taken = {resident.slot for resident in self.resident.values()}
            taken |= {slot for slot, _ in self.reservations.values()}
            full = len(self.resident) >= self.resident_limit and request.name not in self.resident
            if full and not request.evict:
                await _abort(context, Reason.NO_FREE_SLOT, "every slot is taken")
            if full:
                oldest = min(self.resident, key=lambda name: self.resident[name].generation)
                taken.discard(self.resident.pop(oldest).slot)
            self._generation += 1
            slot = next(n for n in range(self.resident_limit + 1) if n not in taken)
            self.reservations[request.request_id] = (slot, self._generation)
        slot, generation = self.reservations[request.request_id]
        return segment_pb2.ReserveSlotResponse(
            slot=slot,
            generation=generation,
            offset=slot * self.layout.slot_bytes,
            lease_ms=self.lease_ms,
        )

    async def CommitSlot(self, request, context):
        await self._check_session(request, context)
        key = (request.slot, request.generation)
        name = request.entry.name
        committed = self.resident.get(name)
        if committed is not None and committed.generation == request.generation:
            return segment_pb2.CommitSlotResponse(revision=1)
        if key not in self.reservations.values():
            await _abort(context, Reason.RESERVATION_LOST, "no such reservation")
        if self.fail_commits:
            await _abort(context, self.fail_commits.pop(0), "injected")
        start = request.slot * self.layout.slot_bytes
        if self.corrupt_next:
            self.corrupt_next = False
            flipped = os.pread(self._fd, 1, start)[0] ^ 1
            os.pwrite(self._fd, bytes([flipped]), start)
        data = os.pread(self._fd, request.written_bytes, start)
        if xxhash.xxh3_128_digest(data) != request.checksum:
            await _abort(context, Reason.CHECKSUM_MISMATCH, "the slot's bytes are others")
        self._release(key)
        entry = segment_pb2.CatalogEntry()
        entry.CopyFrom(request.entry)
        self.resident[name] = Resident(request.slot, request.generation, entry, data)
        self.catalog[name] = entry
        self.commits.append((name, entry.content_hash))
        if self.lost_commit_replies:
            self.lost_commit_replies -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "reply lost")
        return segment_pb2.CommitSlotResponse(revision=1)

    async def AbandonSlot(self, request, context):
        await self._check_session(request, context)
        self.abandoned.append(request.generation)
        self._release((request.slot, request.generation))
        return segment_pb2.AbandonSlotResponse()

    def _release(self, key: tuple[int, int]) -> None:
        self.reservations = {k: v for k, v in self.reservations.items() if v != key}

    async def _check_session(self, request, context) -> None:
        if request.session_id != self.session:
            await _abort(context, Reason.SESSION_LOST, "not the attached session")


async def _abort(context: grpc.aio.ServicerContext, reason: Reason, text: str) -> None:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    status = status_pb2.Status(code=CODES[reason].value[0], message=text, details=[detail])
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(CODES[reason], text, metadata)


def lora_bytes(seed: int, *, rank: int = 4, title: str = "", idle: bool = False) -> bytes:
    """A small valid adapter for PARAMETERS in diffusers' keys; `idle` adds a zero text encoder."""
    rng = np.random.default_rng(seed)
    path, width = "transformer.transformer_blocks.0.attn.to_q", PARAMETERS.width
    tensors = {
        f"{path}.lora_A.weight": rng.standard_normal((rank, width), dtype=np.float32),
        f"{path}.lora_B.weight": rng.standard_normal((width, rank), dtype=np.float32),
    }
    if idle:
        zero = np.zeros((4, 4), np.float32)
        tensors |= {f"text_encoder.q_proj.lora_{factor}.weight": zero for factor in "AB"}
    return save(tensors, metadata={"modelspec.title": title} if title else None)


class ManagerProcess:
    """`python -m lora_manager` as its own process, its log collected line by line."""

    def __init__(self, loras: Path, runtime_dir: Path, *options: str) -> None:
        self.arguments = ["--loras", str(loras), "--runtime-dir", str(runtime_dir), *options]
        self.log: list[str] = []
        self.environment = os.environ | {"XDG_CACHE_HOME": str(runtime_dir.with_name("cache"))}

    async def __aenter__(self) -> ManagerProcess:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lora_manager", *self.arguments,
            stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2], env=self.environment,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(line.decode().rstrip())

    def said(self, text: str) -> bool:
        return any(text in line for line in self.log)
