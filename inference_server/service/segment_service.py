"""`wuliart.internal.v1.SegmentService`: the session of the LoRA manager.

The manager's values are not trusted: names and texts are bounded and made printable here.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import AsyncIterator
from typing import Any, Literal

from grpc import aio
from opentelemetry import trace

from inference_server.adapters.records import FileEntry
from inference_server.adapters.store import AdapterStore
from inference_server.errors import RequestError
from inference_server.service.descriptor_socket import DescriptorSocket, WriterGoneError
from wuliart.internal.v1 import segment_pb2 as pb
from wuliart.internal.v1 import segment_pb2_grpc as rpc
from wuliart_contract.adapter_names import REPLACEMENT, name_problem, printable
from wuliart_contract.limits import MAX_LISTED_ADAPTERS, MAX_THUMBNAILS
from wuliart_contract.recipe import is_autov3
from wuliart_contract.status import Reason
from wuliart_contract.text import hidden_characters
from wuliart_lora.description import (
    MAX_TITLE_CHARACTERS,
    MAX_TRIGGER_WORD_CHARACTERS,
    MAX_TRIGGER_WORDS,
)
from wuliart_process import tracing

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("wuliart.server")

Context = aio.ServicerContext[Any, Any]

HASH_CHARACTERS = 64
MAX_REASON_CHARACTERS = 1_000
MAX_NOTES = 8
MAX_NOTE_CHARACTERS = 300
MAX_SECONDS = 86_400.0
"""Longest duration of the manager's that is counted in the metrics; a longer one is an error."""


class SegmentServicer(rpc.SegmentServiceServicer):
    """The servicer.

    Args:
        store: the adapters, their slots and their catalog.
        descriptors: sends the segment's file descriptor.
        conditioning: silu(temb), float32, little endian, shape [rows, width].
    """

    def __init__(
        self, store: AdapterStore, descriptors: DescriptorSocket, conditioning: bytes
    ) -> None:
        self._store = store
        self._descriptors = descriptors
        self._conditioning = conditioning

    async def Attach(
        self, request: pb.AttachRequest, context: Context
    ) -> AsyncIterator[pb.AttachResponse]:
        """See the .proto file."""
        try:
            peer = self._descriptors.peer(request.token)
            session = self._store.attach()
            segment = self._store.segment
            gpu = segment.open(request.direct)
            try:
                self._descriptors.hand_over(request.token, session.id)
            except WriterGoneError:
                self._store.writer_is_gone(session.id)
                raise
        except WriterGoneError:
            raise RequestError(
                Reason.UNAUTHENTICATED,
                "the token is not one that the descriptor socket has just sent over a connection "
                "that is still open; connect to it again",
            ) from None
        log.info("LoRA manager attached: process %d", peer.pid)
        try:
            yield pb.AttachResponse(
                attached=pb.Attached(
                    epoch=self._store.epoch,
                    session_id=session.id,
                    segment_bytes=segment.nbytes,
                    layout=pb.LayoutParameters(**dataclasses.asdict(segment.layout.parameters)),
                    layout_hash=segment.layout.hash,
                    conditioning=self._conditioning,
                    resident_limit=self._store.slots.resident_limit,
                    gpu_uuid=gpu,
                )
            )
            while True:
                name = await session.promotions.get()
                yield pb.AttachResponse(promote=pb.Promote(name=name))
        finally:
            self._store.detach(session)

    async def ReportCatalog(
        self, request: pb.ReportCatalogRequest, context: Context
    ) -> pb.ReportCatalogResponse:
        """See the .proto file."""
        # Twice the limit: a file that is renamed is listed under both names for a moment.
        listed = len(request.entries) + len(request.pending)
        if max(listed, len(request.waiting)) > 2 * MAX_LISTED_ADAPTERS:
            raise RequestError(
                Reason.INVALID_REQUEST,
                f"the report lists {listed} files and {len(request.waiting)} that are waited for; "
                f"at most {2 * MAX_LISTED_ADAPTERS} of each are accepted",
            )
        if len(request.thumbnails) > MAX_THUMBNAILS:
            raise RequestError(
                Reason.INVALID_REQUEST,
                f"the report lists {len(request.thumbnails)} thumbnails; at most {MAX_THUMBNAILS} "
                "are accepted",
            )
        entries = [_entry(e) for e in request.entries]
        pending = [name for name in request.pending if not name_problem(name)]
        waiting = [_waiting(w) for w in request.waiting if not name_problem(w.name)]
        self._store.report(
            request.session_id,
            entries,
            pending,
            waiting,
            {t.name: t.thumbnail_hash for t in request.thumbnails if _is_hash(t.thumbnail_hash)},
            thumbnails_complete=request.thumbnails_complete,
        )
        catalog = self._store.catalog
        return pb.ReportCatalogResponse(
            revision=catalog.revision, missing_thumbnails=catalog.thumbnails.missing
        )

    async def PutThumbnails(
        self, request: pb.PutThumbnailsRequest, context: Context
    ) -> pb.PutThumbnailsResponse:
        """See the .proto file."""
        self._store.put_thumbnails(request.session_id, request.jpegs)
        return pb.PutThumbnailsResponse(revision=self._store.catalog.revision)

    async def ReserveSlot(
        self, request: pb.ReserveSlotRequest, context: Context
    ) -> pb.ReserveSlotResponse:
        """See the .proto file."""
        if problem := name_problem(request.name):
            raise RequestError(Reason.INVALID_REQUEST, f"no slot for this adapter: {problem}")
        slot = self._store.reserve(
            request.session_id, request.request_id, request.name, evict=request.evict
        )
        return pb.ReserveSlotResponse(
            slot=slot.index,
            generation=slot.generation,
            offset=self._store.segment.offset(slot.index),
            lease_ms=int(self._store.slots.lease_seconds * 1000),
        )

    async def CommitSlot(
        self, request: pb.CommitSlotRequest, context: Context
    ) -> pb.CommitSlotResponse:
        """See the .proto file."""
        metadata: Any = context.invocation_metadata() or ()
        with _tracer.start_as_current_span("commit", tracing.incoming(metadata)):
            await self._commit(request)
        return pb.CommitSlotResponse(revision=self._store.catalog.revision)

    async def _commit(self, request: pb.CommitSlotRequest) -> None:
        await self._store.commit(
            request.session_id,
            request.slot,
            request.generation,
            checksum=request.checksum,
            written_bytes=request.written_bytes,
            entry=_entry(request.entry),
            packed_rank=request.packed_rank,
            sites=request.sites,
            kronecker=_kronecker(request),
            copy_seconds=_seconds(request, "copy_time"),
            seconds_since_noticed=_seconds(request, "time_since_noticed"),
        )

    async def AbandonSlot(
        self, request: pb.AbandonSlotRequest, context: Context
    ) -> pb.AbandonSlotResponse:
        """See the .proto file."""
        self._store.abandon(request.session_id, request.slot, request.generation)
        return pb.AbandonSlotResponse()


def _kronecker(request: pb.CommitSlotRequest) -> dict[str, tuple[int, int]]:
    shapes = {p.module: (p.first_rows, p.first_columns) for p in request.kronecker}
    if len(shapes) < len(request.kronecker):
        raise RequestError(Reason.INVALID_REQUEST, "the commit names a module's product twice")
    return shapes


def _seconds(
    request: pb.CommitSlotRequest, field: Literal["copy_time", "time_since_noticed"]
) -> float | None:
    if not request.HasField(field):
        return None
    duration = getattr(request, field)
    seconds = float(duration.seconds + duration.nanos / 1e9)
    return seconds if 0 <= seconds <= MAX_SECONDS else None


def _entry(message: pb.CatalogEntry) -> FileEntry:
    """Returns the entry in a form that may be listed; an unusable name makes it a refused one."""
    problem = name_problem(message.name)
    return FileEntry(
        name=printable(message.name),
        title=_shown(message.title, MAX_TITLE_CHARACTERS),
        trigger_words=tuple(
            _shown(word, MAX_TRIGGER_WORD_CHARACTERS)
            for word in message.trigger_words[:MAX_TRIGGER_WORDS]
        ),
        rank=message.rank,
        size_bytes=message.size_bytes,
        content_hash=_shown(message.content_hash, HASH_CHARACTERS),
        refusal_reason=_shown(message.refusal_reason, MAX_REASON_CHARACTERS) or problem,
        autov3=message.autov3_hash if is_autov3(message.autov3_hash) else "",
        notes=tuple(_shown(note, MAX_NOTE_CHARACTERS) for note in message.notes[:MAX_NOTES]),
    )


def _is_hash(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _waiting(message: pb.WaitingFile) -> FileEntry:
    """Returns an entry for a file that has not been read yet."""
    return FileEntry(
        name=message.name,
        title=message.name,
        trigger_words=(),
        rank=0,
        size_bytes=message.size_bytes,
        content_hash="",
        waiting_reason=_shown(message.reason, MAX_REASON_CHARACTERS) or "it is not finished",
    )


def _shown(text: str, most: int) -> str:
    """Returns at most `most` characters, with `REPLACEMENT` for each invisible one."""
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    hidden = hidden_characters(text)
    return "".join(REPLACEMENT if n in hidden else c for n, c in enumerate(text))
