"""One session with the server: attach, reserve, write, commit, report.

Retries calls whose reply was lost. Every reservation ends in a commit or is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import duration_pb2
from opentelemetry import trace

from lora_manager.attach_response import model_shape
from lora_manager.catalog import Entry
from lora_manager.handover import HandoverError, receive_segment
from lora_manager.loading import ModelShape
from lora_manager.segment_errors import (
    ReservationLostError,
    SessionLostError,
    VersionMismatchError,
    WriteRejectedError,
    translate,
)
from lora_manager.segment_mapping import SegmentMapping
from lora_manager.server_connection import connect_to_server
from wuliart.internal.v1 import segment_pb2, segment_pb2_grpc
from wuliart_contract.limits import MAX_CONTROL_BYTES
from wuliart_lora.slot_image import SlotImage
from wuliart_process import tracing
from wuliart_process.sockets import CONTROL_SOCKET

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("wuliart.manager")

_ATTACH_SECONDS: Final = 5.0
_CALL_SECONDS: Final = 30.0
_THUMBNAILS_AT_ONCE: Final = 64
"""2 MB at most."""

_TRIES: Final = 3
"""Attempts at one call whose reply is lost."""


class SegmentSession:
    """An open session. Use `attach` to get one."""

    def __init__(
        self,
        stub: segment_pb2_grpc.SegmentServiceAsyncStub,
        stream: Any,
        attached: segment_pb2.Attached,
        shape: ModelShape,
        mapping: SegmentMapping,
    ) -> None:
        self.epoch = attached.epoch
        self.resident_limit = attached.resident_limit
        self.direct = bool(attached.gpu_uuid)
        self.shape = shape
        self._segment_bytes = attached.segment_bytes
        self._session_id = attached.session_id
        self._stub = stub
        self._stream = stream
        self._mapping = mapping

    async def promotions(self) -> AsyncIterator[str]:
        """Names the server wants loaded now, until the session is lost (SessionLostError)."""
        while True:
            message = await _next(self._stream)
            if message.WhichOneof("message") == "promote":
                yield message.promote.name

    async def report(self, request: segment_pb2.ReportCatalogRequest) -> Sequence[str]:
        """Replace the server's knowledge of the directory; `request` lacks the session only.

        Returns the hashes of thumbnails that the server has not got.
        """
        request.session_id = self._session_id
        response = await self._call(self._stub.ReportCatalog, request)
        return response.missing_thumbnails  # type: ignore[no-any-return]

    async def put_thumbnails(self, jpegs: Sequence[bytes]) -> None:
        """Bring the server thumbnails that it has not got."""
        for start in range(0, len(jpegs), _THUMBNAILS_AT_ONCE):
            request = segment_pb2.PutThumbnailsRequest(
                session_id=self._session_id, jpegs=jpegs[start : start + _THUMBNAILS_AT_ONCE]
            )
            await self._call(self._stub.PutThumbnails, request)

    async def publish(
        self, entry: Entry, image: SlotImage, *, evict: bool, noticed: float | None = None
    ) -> None:
        """Write the adapter into a slot and commit it.

        `noticed` is the `time.monotonic()` at which its file was seen to have changed, for the
        server's metrics; None if it is loaded for another reason. A lost lease or a checksum that
        does not match is tried once more in a new slot. Raises NoFreeSlotError,
        ReservationLostError, WriteRejectedError, or SessionLostError.
        """
        try:
            with _tracer.start_as_current_span("publish", attributes={"adapter": entry.name}):
                await self._publish_once(entry, image, evict, noticed)
        except ReservationLostError as error:
            log.warning('writing "%s" again: %s', entry.name, error)
            await self._publish_once(entry, image, evict, noticed)

    async def _publish_once(
        self, entry: Entry, image: SlotImage, evict: bool, noticed: float | None
    ) -> None:
        requested = time.monotonic()
        slot = await self._call(
            self._stub.ReserveSlot,
            segment_pb2.ReserveSlotRequest(
                session_id=self._session_id,
                request_id=str(uuid.uuid4()),
                name=entry.name,
                evict=evict,
            ),
        )
        try:
            size = image.data.size
            slot_bytes = self.shape.layout.slot_bytes
            end = slot.offset + slot_bytes
            if (
                slot.offset != slot.slot * slot_bytes
                or end > self._segment_bytes
                or size > slot_bytes
            ):
                raise WriteRejectedError(
                    f"{size} bytes do not fit slot {slot.slot}, which the server says begins at "
                    f"byte {slot.offset} of {self._segment_bytes}"
                )
            # A manager that was stopped meanwhile must not write into a slot it has lost.
            deadline = requested + slot.lease_ms / 1000
            began = time.monotonic()
            if not await self._mapping.write(
                slot.offset, image.data, lambda: time.monotonic() < deadline
            ):
                raise ReservationLostError(
                    f"the lease of {slot.lease_ms} ms ran out before the write"
                )
            written = time.monotonic()
            await self._call(
                self._stub.CommitSlot,
                segment_pb2.CommitSlotRequest(
                    session_id=self._session_id,
                    slot=slot.slot,
                    generation=slot.generation,
                    checksum=image.checksum,
                    written_bytes=size,
                    entry=entry.to_pb(),
                    packed_rank=image.packed_rank,
                    sites=image.sites,
                    kronecker=[
                        segment_pb2.KroneckerProduct(
                            module=module, first_rows=rows, first_columns=columns
                        )
                        for module, (rows, columns) in image.kronecker.items()
                    ],
                    copy_time=_duration(written - began),
                    time_since_noticed=None if noticed is None else _duration(written - noticed),
                ),
            )
        except SessionLostError:
            raise
        except Exception:
            await self._call(
                self._stub.AbandonSlot,
                segment_pb2.AbandonSlotRequest(
                    session_id=self._session_id, slot=slot.slot, generation=slot.generation
                ),
            )
            raise

    async def _call(self, method: Any, request: Any) -> Any:
        """One call, repeated as it is if its reply is lost."""
        for left in reversed(range(_TRIES)):
            try:
                metadata = tracing.outgoing_metadata()
                return await method(request, timeout=_CALL_SECONDS, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                lost = error.code() in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.StatusCode.CANCELLED,
                )
                if not lost or not left:
                    raise translate(error) from error
                await asyncio.sleep(0.05)
        raise AssertionError("unreachable")


@contextlib.asynccontextmanager
async def attach(runtime_dir: Path, direct: bool) -> AsyncIterator[SegmentSession]:
    """Open a session with the server whose sockets lie in `runtime_dir` and close it at the end.

    With `direct` it requests the GPU's memory. Raises SessionLostError if there is no server,
    UntrustedServerError, AlreadyAttachedError, VersionMismatchError, DeviceUnavailableError.
    """
    options = [
        ("grpc.max_send_message_length", MAX_CONTROL_BYTES),
        ("grpc.max_receive_message_length", MAX_CONTROL_BYTES),
        # A fresh connection each time: shared ones remember how long to wait.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    connected = await connect_to_server(runtime_dir)
    target = f"unix:{runtime_dir / CONTROL_SOCKET}"
    # Closed here too if it never came to a mapping, which closes it last.
    with connected.connection:
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            stub = segment_pb2_grpc.SegmentServiceStub(channel)
            request = segment_pb2.AttachRequest(token=connected.token, direct=direct)
            stream = stub.Attach(request)
            try:
                session, mapping = await _open(stub, stream, connected.connection, direct)
                try:
                    yield session
                finally:
                    await mapping.close()
            finally:
                stream.cancel()


async def _open(
    stub: segment_pb2_grpc.SegmentServiceAsyncStub,
    stream: Any,
    connection: socket.socket,
    direct: bool,
) -> tuple[SegmentSession, SegmentMapping]:
    try:
        async with asyncio.timeout(_ATTACH_SECONDS):
            first = await _next(stream)
    except TimeoutError:
        raise SessionLostError("the server did not answer") from None
    if first.WhichOneof("message") != "attached":
        raise VersionMismatchError("the server's first message is not `attached`")
    attached = first.attached
    shape = model_shape(attached, direct)
    try:
        mapping = await receive_segment(connection, attached.segment_bytes, attached.gpu_uuid)
    except (HandoverError, OSError) as error:
        raise SessionLostError(f"the segment could not be mapped: {error}") from error
    return SegmentSession(stub, stream, attached, shape, mapping), mapping


def _duration(seconds: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


async def _next(stream: Any) -> segment_pb2.AttachResponse:
    try:
        message = await stream.read()
    except grpc.aio.AioRpcError as error:
        raise translate(error) from error
    if message is grpc.aio.EOF:
        raise SessionLostError("the server ended the session")
    return message  # type: ignore[no-any-return]
